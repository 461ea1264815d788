package identityvolume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The attributes of a volume, in volumeAttributes of a pod's csi volume.
const (
	// AttributeSource names the source.
	AttributeSource = "source"
	// AttributeRole is who to be there.
	AttributeRole = "role"
	// AttributeCredentials says what to read: a YAML map of credential.Read by name.
	AttributeCredentials = "credentials"
	// AttributeFiles says what to make of it: a YAML map of FileSpec by file name.
	AttributeFiles = "files"
	// AttributeOnExpiry is the policy for what has ended or was taken away.
	AttributeOnExpiry = "onExpiry"
)

// Policy is what becomes of files whose content has ended to be valid, or was taken
// away, and cannot be replaced.
type Policy string

// The policies.
const (
	Keep  Policy = "keep"
	Fence Policy = "fence" // the files are emptied
)

// kubernetesPrefix starts the keys that kubelet adds.
const kubernetesPrefix = "csi.storage.k8s.io/"

const (
	// maxCredentials bounds what one volume reads.
	maxCredentials = 16
	// maxAttributes bounds what a pod writes in all, in bytes.
	maxAttributes = 32 << 10
)

// FileSpec is one file. In YAML it may be a text alone, which is Content.
type FileSpec struct {
	// Content is a field of a credential, as CREDENTIAL.FIELD.
	Content string `json:"content,omitempty"`
	// Template is a Go template over all credentials, {{ .CREDENTIAL.FIELD }}.
	Template string `json:"template,omitempty"`
	// Mode are the permission bits in octal, in quotes; without it 0440 for a volume
	// with a group (fsGroup), else 0400.
	Mode string `json:"mode,omitempty"`
}

// UnmarshalJSON accepts a text in place of the whole.
func (f *FileSpec) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		return yaml.UnmarshalStrict(text, &f.Content)
	}
	type plain FileSpec
	return yaml.UnmarshalStrict(text, (*plain)(f))
}

// spec is what a pod asks for.
type spec struct {
	source, role string
	policy       Policy
	reads        map[string]credential.Read
	files        []fileSpec // in order of name
}

type fileSpec struct {
	name string
	mode fs.FileMode // 0: the default
	// One of the two.
	credential, field string
	template          *fileTemplate
}

var credentialName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// parseSpec reads the attributes of a volume. It is volume.ErrInvalid for what makes no
// sense; whether the source allows it is not asked here.
func parseSpec(attributes map[string]string) (spec, error) {
	s := spec{source: attributes[AttributeSource], role: attributes[AttributeRole], policy: Keep}
	bad := func(format string, args ...any) (spec, error) {
		return spec{}, fmt.Errorf("%w: volumeAttributes: %w", volume.ErrInvalid, fmt.Errorf(format, args...))
	}
	known := []string{AttributeCredentials, AttributeFiles, AttributeOnExpiry, AttributeRole, AttributeSource}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(key, kubernetesPrefix) {
			continue
		}
		if !slices.Contains(known, key) {
			return bad("%q is not known: known are %s", key, strings.Join(known, ", "))
		}
		if size += len(attributes[key]); size > maxAttributes {
			return bad("they have more than %d bytes in all", maxAttributes)
		}
		if err := checkYAML(attributes[key]); err != nil {
			return bad("%s: %w", key, err)
		}
	}
	if s.source == "" {
		return bad("%s is missing: name one of the sources that the administrator has set up", AttributeSource)
	}
	if s.policy = policyOf(attributes); s.policy == "" {
		return bad("%s: %q: want %s or %s", AttributeOnExpiry, attributes[AttributeOnExpiry], Keep, Fence)
	}
	if err := yaml.UnmarshalStrict([]byte(attributes[AttributeCredentials]), &s.reads); err != nil {
		return bad("%s: %s", AttributeCredentials, oneLine(err.Error()))
	}
	if len(s.reads) == 0 || len(s.reads) > maxCredentials {
		return bad("%s: %d of them: want 1 to %d, as NAME: {...}", AttributeCredentials, len(s.reads), maxCredentials)
	}
	for _, name := range slices.Sorted(maps.Keys(s.reads)) {
		if !credentialName.MatchString(name) {
			return bad("%s: name %q: want a letter and up to 62 of [a-z0-9_]", AttributeCredentials, name)
		}
	}
	var files map[string]FileSpec
	if err := yaml.UnmarshalStrict([]byte(attributes[AttributeFiles]), &files); err != nil {
		return bad("%s: %s", AttributeFiles, oneLine(err.Error()))
	}
	if len(files) == 0 || len(files) > payload.MaxFiles {
		return bad("%s: %d of them: want 1 to %d, as FILE: CREDENTIAL.FIELD", AttributeFiles, len(files), payload.MaxFiles)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := s.file(name, files[name])
		if err != nil {
			return bad("%s: %s: %s", AttributeFiles, name, err)
		}
		s.files = append(s.files, f)
	}
	return s, nil
}

var anchorOrAlias = regexp.MustCompile(`[&*][0-9A-Za-z_-]+`)

// policyOf is the policy that a pod asks for, whatever else it says; "" if that is none.
func policyOf(attributes map[string]string) Policy {
	switch p := Policy(attributes[AttributeOnExpiry]); p {
	case Keep, Fence:
		return p
	case "":
		return Keep
	}
	return ""
}

// checkYAML refuses a text in which the same name is an anchor (&NAME) and an alias
// (*NAME): a few lines of them decode to more than any memory holds. It reads no YAML,
// so it also finds them where they are part of a text.
func checkYAML(text string) error {
	if !utf8.ValidString(text) {
		return errors.New("it is not UTF-8")
	}
	seen := map[string]bool{}
	for _, word := range anchorOrAlias.FindAllString(text, -1) {
		other := "&" + word[1:]
		if word[0] == '&' {
			other = "*" + word[1:]
		}
		if seen[other] {
			return fmt.Errorf("it has &%[1]s and *%[1]s: YAML with aliases is not taken, write it out", word[1:])
		}
		seen[word] = true
	}
	return nil
}

func (s spec) file(name string, f FileSpec) (fileSpec, error) {
	out := fileSpec{name: name}
	if err := payload.CheckName(name); err != nil {
		return out, err
	}
	if f.Mode != "" {
		mode, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil || mode&0o400 == 0 || mode&^0o777 != 0 {
			return out, fmt.Errorf("mode %q: want permission bits in octal and in quotes, with that of the owner to read, such as \"0444\"", f.Mode)
		}
		out.mode = fs.FileMode(mode)
	}
	switch {
	case (f.Content == "") == (f.Template == ""):
		return out, errors.New("want exactly one of content and template")
	case f.Content != "":
		credential, field, ok := strings.Cut(f.Content, ".")
		if _, known := s.reads[credential]; !ok || !known || field == "" {
			return out, fmt.Errorf("content %q: want CREDENTIAL.FIELD with one of the credentials", f.Content)
		}
		out.credential, out.field = credential, field
	default:
		t, err := parseTemplate(name, f.Template)
		if err != nil {
			return out, err
		}
		out.template = t
	}
	return out, nil
}

func (s spec) list() []credential.Read {
	var all []credential.Read
	for _, name := range slices.Sorted(maps.Keys(s.reads)) {
		all = append(all, s.reads[name])
	}
	return all
}

// oneLine is a text without line breaks: that of the YAML decoder has some, and so has
// one of several errors.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
