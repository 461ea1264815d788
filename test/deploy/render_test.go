package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	// repository is the top of the tree, seen from this package.
	repository = "../.."
	kustomize  = repository + "/deploy/kustomize/"
	singleNode = kustomize + "overlays/single-node"
	microk8s   = kustomize + "overlays/microk8s"
)

// render builds a kustomization and decodes what comes out.
func render(t *testing.T, dir string) []runtime.Object {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	return decode(t, dir, text)
}

// notOurs are kinds that this package has no types of: TestCRDsAreThoseOfTheModule
// checks the first, tests of the chart the others.
var notOurs = []string{"CustomResourceDefinition", "ServiceMonitor", "PrometheusRule"}

// decode decodes YAML documents strictly. Those of notOurs are left out.
func decode(t *testing.T, name string, text []byte) []runtime.Object {
	t.Helper()
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), snapshotv1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, known, known, json.SerializerOptions{Yaml: true, Strict: true})
	var objects []runtime.Object
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("read %s: %v", name, err)
		}
		if kind, err := json.DefaultMetaFactory.Interpret(mustJSON(t, document)); err == nil && slices.Contains(notOurs, kind.Kind) {
			continue
		}
		object, _, err := strict.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("decode %s: %v\n%s", name, err, document)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatalf("there is nothing in %s", name)
	}
	return objects
}

func mustJSON(t *testing.T, document []byte) []byte {
	t.Helper()
	text, err := yaml.ToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// of are the objects of one type.
func of[T runtime.Object](objects []runtime.Object) []T {
	var found []T
	for _, o := range objects {
		if typed, ok := o.(T); ok {
			found = append(found, typed)
		}
	}
	return found
}

// examples are the objects of deploy/examples, by file.
func examples(t *testing.T) map[string][]runtime.Object {
	t.Helper()
	files, err := filepath.Glob(repository + "/deploy/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	found := map[string][]runtime.Object{}
	for _, f := range files {
		found[filepath.Base(f)] = decode(t, f, []byte(readFile(t, f)))
	}
	return found
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
