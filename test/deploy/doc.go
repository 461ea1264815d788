// Package deploy checks the manifests in deploy/ as text, without a cluster: it
// renders every kustomization, decodes all objects strictly, and holds them to what
// the documents promise.
//
// What the API server thinks of them, and whether they work, is checked by test/e2e
// on a real cluster.
package deploy
