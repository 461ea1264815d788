# The container image of the driver. Its root filesystem is made first, from
# Debian packages, by `make image` (hack/image-rootfs.sh); no base image is
# needed, and there is no shell in it.
FROM scratch
COPY dist/rootfs/ /
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/driver"]
