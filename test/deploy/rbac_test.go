package deploy

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rules are the rules of all roles, by "kind name".
func rules(objects []runtime.Object) map[string][]rbacv1.PolicyRule {
	found := map[string][]rbacv1.PolicyRule{}
	for _, r := range of[*rbacv1.ClusterRole](objects) {
		found["ClusterRole "+r.Name] = r.Rules
	}
	for _, r := range of[*rbacv1.Role](objects) {
		found["Role "+r.Namespace+"/"+r.Name] = r.Rules
	}
	return found
}

// writes are the verbs that change something.
func writes(rule rbacv1.PolicyRule) bool {
	return slices.ContainsFunc(rule.Verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" })
}

func TestNobodyMayWhatHoldfastNeverNeeds(t *testing.T) {
	for role, list := range rules(render(t, singleNode)) {
		for _, rule := range list {
			for _, all := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs} {
				if slices.Contains(all, "*") {
					t.Errorf("%s has a rule for everything: %v", role, rule)
				}
			}
			for _, resource := range rule.Resources {
				switch resource {
				case "secrets", "configmaps", "serviceaccounts", "serviceaccounts/token", "pods/exec", "nodes/proxy":
					t.Errorf("%s may %v %s", role, rule.Verbs, resource)
				case "nodes", "nodes/status", "csinodes", "storageclasses", "volumesnapshotclasses", "pods":
					if writes(rule) {
						t.Errorf("%s may change %s: %v", role, resource, rule.Verbs)
					}
				}
			}
			for _, verb := range []string{"bind", "escalate", "impersonate", "deletecollection"} {
				if slices.Contains(rule.Verbs, verb) {
					t.Errorf("%s may %s %v", role, verb, rule.Resources)
				}
			}
		}
	}
}

// The driver and its claim write in their own namespace and nowhere else.
func TestTheDriversOwnRights(t *testing.T) {
	all := rules(render(t, singleNode))
	for _, rule := range all["Role holdfast-system/holdfast-driver"] {
		for _, resource := range rule.Resources {
			if !slices.Contains([]string{"events", "leases"}, resource) {
				t.Errorf("the driver may %v %s", rule.Verbs, resource)
			}
			if resource == "leases" && !slices.Equal(rule.Verbs, []string{"create"}) && !slices.Equal(rule.ResourceNames, []string{"holdfast-single-node"}) {
				t.Errorf("the driver may %v leases %v, want only its own by name", rule.Verbs, rule.ResourceNames)
			}
		}
	}
	if _, ok := all["ClusterRole holdfast-driver"]; ok {
		t.Error("the driver has rights outside its namespace")
	}
}

// Every role is bound, and to a ServiceAccount that exists.
func TestBindingsLeadSomewhere(t *testing.T) {
	for name, objects := range installations(t) {
		t.Run(name, func(t *testing.T) { bindingsLeadSomewhere(t, objects) })
	}
}

func bindingsLeadSomewhere(t *testing.T, objects []runtime.Object) {
	accounts := map[string]bool{}
	for _, a := range of[*corev1.ServiceAccount](objects) {
		accounts[a.Namespace+"/"+a.Name] = true
	}
	unbound := rules(objects)
	check := func(name, role string, subjects []rbacv1.Subject) {
		if _, ok := unbound[role]; !ok {
			t.Errorf("%s binds %s, which does not exist or is bound twice", name, role)
		}
		delete(unbound, role)
		for _, s := range subjects {
			if s.Kind != rbacv1.ServiceAccountKind || !accounts[s.Namespace+"/"+s.Name] {
				t.Errorf("%s gives rights to %v, which does not exist", name, s)
			}
		}
	}
	for _, b := range of[*rbacv1.ClusterRoleBinding](objects) {
		check("ClusterRoleBinding "+b.Name, b.RoleRef.Kind+" "+b.RoleRef.Name, b.Subjects)
	}
	for _, b := range of[*rbacv1.RoleBinding](objects) {
		check("RoleBinding "+b.Name, b.RoleRef.Kind+" "+b.Namespace+"/"+b.RoleRef.Name, b.Subjects)
	}
	for role := range unbound {
		t.Errorf("%s is bound to nobody", role)
	}
	for name, pod := range pods(objects) {
		if !accounts["holdfast-system/"+pod.ServiceAccountName] {
			t.Errorf("%s runs as %q, which does not exist", name, pod.ServiceAccountName)
		}
	}
}
