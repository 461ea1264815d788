package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// nodeSSH is an SSH server on the node's own address, through which the disruptive
// tests stop kubelet and look at mounts. It is there for one run, has a key that
// nobody else knows, and knows one systemctl: see systemctl.
type nodeSSH struct {
	dir    string
	server *exec.Cmd
	said   bytes.Buffer
}

// sshdProgram is of Debian's package openssh-server.
const sshdProgram = "/usr/sbin/sshd"

func startNodeSSH(ctx context.Context) (*nodeSSH, error) {
	dir, err := os.MkdirTemp("", "holdfast-ssh-")
	if err != nil {
		return nil, err
	}
	s := &nodeSSH{dir: dir}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start an SSH server for the tests: %w", err), s.stop())
	}
	return s, nil
}

func (s *nodeSSH) start(ctx context.Context) error {
	for _, key := range []string{"host", "user"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key)).CombinedOutput(); err != nil {
			return fmt.Errorf("make a key: %w: %s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	top, err := os.Getwd()
	if err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\ncd '%s' && exec '%s' systemctl \"$@\"\n", top, self)
	config := strings.Join([]string{
		"ListenAddress " + cluster.NodeIP + ":22",
		"HostKey " + filepath.Join(s.dir, "host"),
		"AuthorizedKeysFile " + filepath.Join(s.dir, "user.pub"),
		"PidFile none", "UsePAM no", "StrictModes no", "PermitRootLogin prohibit-password", "PasswordAuthentication no",
		// The tests open more sessions at once than the default lets in.
		"MaxStartups 100",
		"SetEnv PATH=" + s.dir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "",
	}, "\n")
	if err := errors.Join(
		os.WriteFile(filepath.Join(s.dir, "systemctl"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(s.dir, "config"), []byte(config), 0o600),
		os.MkdirAll("/run/sshd", 0o755),
	); err != nil {
		return err
	}
	s.server = exec.Command(sshdProgram, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	s.server.Stderr = &s.said
	if err := s.server.Start(); err != nil {
		return fmt.Errorf("%w; it is in Debian's package openssh-server", err)
	}
	return s.answers(ctx)
}

// answers waits until the server does.
func (s *nodeSSH) answers(ctx context.Context) error {
	for range 100 {
		conn, err := net.DialTimeout("tcp", cluster.NodeIP+":22", time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("nobody answers on %s:22: %s", cluster.NodeIP, s.said.String())
}

// environment tells the tests how to log in.
func (s *nodeSSH) environment() []string {
	return []string{"KUBE_SSH_KEY_PATH=" + filepath.Join(s.dir, "user"), "KUBE_SSH_USER=root"}
}

func (s *nodeSSH) stop() error {
	if s.server != nil && s.server.Process != nil {
		if err := s.server.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		_ = s.server.Wait() // it ends by the signal, which is no error
	}
	return os.RemoveAll(s.dir)
}

// systemctl is what the tests use of it, on the cluster's kubelet, which no systemd
// started.
func systemctl(ctx context.Context, args []string) error {
	c, err := cluster.OpenStopped()
	if err != nil {
		return err
	}
	switch strings.Join(args, " ") {
	case "stop kubelet":
		return c.StopKubelet(ctx)
	case "start kubelet":
		return c.LaunchKubelet()
	case "show kubelet --property ActiveState --value":
		state := "inactive"
		if c.KubeletRuns() {
			state = "active"
		}
		fmt.Println(state)
		return nil
	}
	return fmt.Errorf("systemctl %s: the tests were not known to ask for it", strings.Join(args, " "))
}
