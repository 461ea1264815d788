package deploy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/chart"
)

// Each value that is wrong is refused before anything is changed, with a message that
// names it.
func TestWrongValuesAreRefused(t *testing.T) {
	c := theChart(t)
	for values, want := range map[string]string{
		"pool: {}":                                "pool",
		"overcomit: 2":                            "overcomit",
		"overcommit: 0.5":                         "/overcommit",
		"overcommit: lots":                        "/overcommit",
		"hostReserve: 100":                        "/hostReserve",
		"verbosity: 3":                            "/verbosity",
		"trimInterval: 24":                        "/trimInterval",
		"trimInterval: daily":                     "/trimInterval",
		"kubeletDir: var/lib/kubelet":             "/kubeletDir",
		"poolsDir: /var/lib/holdfast/pools/":      "/poolsDir",
		"poolsDir: /srv/../var/lib/kubelet/pools": "/poolsDir",
		"kubeletDir: /var/lib/./kubelet":          "/kubeletDir",
		"pools: [{name: a, dir: /var/lib/holdfast/pools/../state}]":                   "/pools/0/dir",
		"pools: [{name: a, dir: /var/lib/holdfast/pools/..}]":                         "/pools/0/dir",
		"pools: [{name: Default}]":                                                    "/pools/0/name",
		"pools: [{name: a, size: 20GB}]":                                              "/pools/0/size",
		"pools: [{name: a, size: 20}]":                                                "/pools/0/size",
		"pools: [{name: a, filesystem: zfs}]":                                         "/pools/0/filesystem",
		"pools: [{name: a, device: /dev/sdb}]":                                        "/pools/0",
		"extraArgs: [-v=2]":                                                           "/extraArgs/0",
		"storageClasses: [{name: a, fsType: btrfs}]":                                  "/storageClasses/0/fsType",
		"storageClasses: [{name: a, reclaimPolicy: Recycle}]":                         "/storageClasses/0/reclaimPolicy",
		"storageClasses: [{name: a, parameters: {pool: {}}}]":                         "/storageClasses/0/parameters/pool",
		"volumeSnapshotClasses: [{name: a, deletionPolicy: Keep}]":                    "/volumeSnapshotClasses/0/deletionPolicy",
		"pools: [{size: 20Gi}, {name: default}]":                                      `two have the name "default"`,
		"snapshotController: {enabled: maybe}":                                        "/snapshotController/enabled",
		"snapshotController: {image: x}":                                              "/snapshotController",
		"images: {driver: {tag: v1}, csi: {}}":                                        "/images",
		"images: {driver: {repository: 'x y'}}":                                       "/images/driver/repository",
		"resources: {driver: {limits: {memory: 1Gi}}}":                                "/resources/driver",
		"resources: {watchdog: {limits: {cpu: 1}}}":                                   "/resources/watchdog",
		"resources: {resizer: {limits: {memory: 1GB}}}":                               "/resources/resizer/limits/memory",
		"tolerations: [{op: Exists}]":                                                 "/tolerations/0",
		"monitoring: {serviceMonitor: {enabled: 'yes'}}":                              "/monitoring/serviceMonitor/enabled",
		"networkPolicy: {apiServerPorts: [https]}":                                    "/networkPolicy/apiServerPorts/0",
		"commonLabels: {app.kubernetes.io/name: mine}":                                "/commonLabels",
		"storageClasses: [{name: a, parameters: {csi.storage.k8s.io/fstype: xfs}}]":   "/storageClasses/0/parameters",
		"imagePullSecrets: [registry]":                                                "/imagePullSecrets/0",
		"identity: {tokenSeconds: 60}":                                                "/identity/tokenSeconds",
		"identity: {sources: {a: {vault: {}, aws: {}}}}":                              "/identity/sources/a",
		"identity: {sources: {Shop: {token: {}}}}":                                    "/identity/sources",
		"plainManifests: maybe":                                                       "/plainManifests",
		"pools: []":                                                                   "pools: there is none",
		"pools: [{name: a, size: 1Gi}, {name: a, size: 2Gi}]":                         `two have the name "a"`,
		"pools: [{name: a, dir: /mnt/disk}]":                                          "the dir /mnt/disk of pool a is not below poolsDir",
		"pools: [{name: a, dir: /var/lib/holdfast/pools}]":                            "is not below poolsDir",
		"pools: [{name: a}, {name: b, dir: /var/lib/holdfast/pools/a}]":               "are the same directory",
		"pools: [{name: a}, {name: b, dir: /var/lib/holdfast/pools/a/b}]":             "or one is inside the other",
		"poolsDir: /var/lib/kubelet/pools":                                            "one directory is inside the other",
		"poolsDir: /var/lib/holdfast":                                                 "one directory is inside the other",
		"poolsDir: /var/lib":                                                          "one directory is inside the other",
		"kubeletDir: /var/lib/holdfast/pools/kubelet":                                 "one directory is inside the other",
		"pools: [{name: a}, {name: b}]":                                               "class holdfast chooses no pool, and of several pools none is named default",
		"storageClasses: [{name: a, parameters: {pool: ssd}}]":                        `class a chooses the pool "ssd", and pools has default`,
		"storageClasses: [{name: a}, {name: a}]":                                      `two have the name "a"`,
		"defaultStorageClass: fast":                                                   `"fast" is not among storageClasses`,
		"volumeSnapshotClasses: [{name: a, default: true}, {name: b, default: true}]": "a and b are both the default",
	} {
		_, err := c.Render(t.Context(), chart.Options{Values: values})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the chart says %v, want words about %q", values, err, want)
		}
	}
}

// node is what of a JSON schema says which values there are.
type node struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Properties           map[string]node
	AdditionalProperties any
	Definitions          map[string]node
}

// Every value has a default and a comment, and the schema knows it; and the schema
// knows no other.
func TestSchemaAndValuesKnowTheSame(t *testing.T) {
	var schema node
	if err := json.Unmarshal([]byte(readFile(t, repository+"/deploy/helm/holdfast/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(readFile(t, repository+"/deploy/helm/holdfast/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm's own
	compareWithSchema(t, "", values, schema, schema.Definitions)
}

func compareWithSchema(t *testing.T, path string, values map[string]any, schema node, definitions map[string]node) {
	if schema.Ref != "" {
		schema = definitions[strings.TrimPrefix(schema.Ref, "#/definitions/")]
	}
	if schema.Properties == nil { // a map whose keys are the user's
		return
	}
	if strict, ok := schema.AdditionalProperties.(bool); !ok || strict {
		t.Errorf("%s: the schema lets any value pass", path)
	}
	for key, value := range values {
		below, known := schema.Properties[key]
		if !known {
			t.Errorf("the schema does not know %s/%s", path, key)
			continue
		}
		if inner, ok := value.(map[string]any); ok {
			compareWithSchema(t, path+"/"+key, inner, below, definitions)
		}
	}
	// What each container asks for is a choice of its own.
	if strings.HasPrefix(path, "/resources/") || strings.HasSuffix(path, "/resources") && path != "/resources" || strings.HasSuffix(path, "/limits") || strings.HasSuffix(path, "/requests") {
		return
	}
	for key := range schema.Properties {
		if _, has := values[key]; !has {
			t.Errorf("values.yaml says nothing of %s/%s, which the schema has", path, key)
		}
	}
}

func TestNotesSayWhatToDoNext(t *testing.T) {
	c := theChart(t)
	for _, test := range []struct {
		name, values string
		want, not    []string
	}{{
		name: "no values",
		want: []string{
			"kubectl -n holdfast-system rollout status daemonset/holdfast", "/driver pool status",
			"default: an image of 20Gi in /var/lib/holdfast/pools/default",
			"storageClassName: holdfast\n", "--set defaultStorageClass=holdfast",
			"volumeSnapshotClassName: holdfast\n", "This version serves one node", "holdfast-single-node", "name yours",
			"helm uninstall keeps all data",
		},
		not: []string{"pool init", "WARNING", "<no value>", "overcommit"},
	}, {
		name:   "a disk",
		values: "pools: [{name: ssd, filesystem: xfs}]\nnodeSelector: {kubernetes.io/hostname: store}",
		want: []string{
			"ssd: /var/lib/holdfast/pools/ssd, which you prepare once",
			"/driver pool init --pool-filesystem=ssd=xfs ssd=/dev/disk/by-id/YOUR-DISK\n", "rollout restart daemonset/holdfast",
		},
		not: []string{"an image of", "name yours", "--dir="},
	}, {
		name:   "disks elsewhere",
		values: "poolsDir: /srv/pools\npools: [{name: ssd}, {name: hdd, dir: /srv/pools/slow}]\nstorageClasses: [{name: fast, parameters: {pool: ssd}}]",
		want: []string{
			"pool init --dir=/srv/pools/ssd ssd=/dev", "pool init --dir=/srv/pools/slow hdd=/dev",
			"storageClassName: fast\n",
		},
		not: []string{"StorageClasses: "},
	}, {
		name:   "a default class",
		values: "defaultStorageClass: holdfast-xfs",
		want:   []string{"holdfast-xfs is for claims that name none"},
		not:    []string{"storageClassName:", "None is the cluster's default"},
	}, {
		name:   "overcommit",
		values: "overcommit: 3",
		want:   []string{"WARNING: overcommit is 3.", "set up the alerts first"},
	}, {
		name:   "overcommit with alerts",
		values: "overcommit: 3\nmonitoring: {alertRules: {enabled: true}}",
		want:   []string{"WARNING: overcommit is 3."},
		not:    []string{"set up the alerts first"},
	}, {
		name:   "identity volumes",
		values: "identity: {enabled: true}",
		want:   []string{"with the sources\ntoken, vault. Pods name"},
	}, {
		name:   "no snapshots, no classes",
		values: "snapshotController: {enabled: false}\nstorageClasses: []\nvolumeSnapshotClasses: []",
		want:   []string{"WARNING: snapshotController.enabled is false", "There are no StorageClasses"},
		not:    []string{"kind: PersistentVolumeClaim", "kind: VolumeSnapshot"},
	}} {
		t.Run(test.name, func(t *testing.T) {
			notes, err := c.Notes(t.Context(), chart.Options{Values: test.values})
			if err != nil {
				t.Fatal(err)
			}
			for _, words := range test.want {
				if !strings.Contains(notes, words) {
					t.Errorf("they lack %q:\n%s", words, notes)
				}
			}
			for _, words := range append(test.not, "<no value>", "%!") {
				if strings.Contains(notes, words) {
					t.Errorf("they have %q:\n%s", words, notes)
				}
			}
			for line := range strings.Lines(notes) {
				if strings.HasSuffix(line, " \n") {
					t.Errorf("a line ends with a space: %q", line)
				}
			}
			// What they tell people to paste is what it should be.
			for _, kind := range []string{"CLAIM", "SNAPSHOT"} {
				if _, rest, found := strings.Cut(notes, "<<'"+kind+"'\n"); found {
					document, _, ended := strings.Cut(rest, "\n"+kind+"\n")
					if !ended { // by a word that begins its line, or the shell reads on
						t.Errorf("the text of %s does not end:\n%s", kind, notes)
					}
					decode(t, "the notes", []byte(document))
				}
			}
		})
	}
}

// Whoever sets the values of the chart without the schema's help reads its reference.
func TestTheReferenceHasEveryValue(t *testing.T) {
	page := readFile(t, repository+"/docs/reference/helm-values.md")
	var values map[string]any
	if err := yaml.Unmarshal([]byte(readFile(t, repository+"/deploy/helm/holdfast/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !strings.Contains(page, "`"+key+"`") {
			t.Errorf("docs/reference/helm-values.md says nothing of %s", key)
		}
	}
}
