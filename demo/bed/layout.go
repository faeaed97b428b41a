package bed

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"ballast/internal/ports"
)

// The accounts of a bed. The second application's exists on Large and Super,
// and its users cannot see the first's.
const (
	sysAccount   = "SYS"
	appAccount   = "APP"
	otherAccount = "BILLING"
)

// leafDomain keeps the JetStream of the leaf node apart from the super-cluster's.
const leafDomain = "edge"

// node is a server of the layout: what its configuration file says.
type node struct {
	Name, Cluster, Domain string
	Dir                   string
	Port, Monitor         int
	Profile               int // port of its profiler; 0: none
	RoutePort             int // 0: no cluster
	GatewayPort, LeafPort int // 0: none
	Routes                []string
	Gateways              []gateway
	Leaf                  []string // URLs of the leaf node's remotes, nil: not a leaf node
	App, Sys, Link        string   // passwords; Link is the servers' among themselves
	config                string   // path of the file
}

type gateway struct {
	Name string
	URLs []string
}

func (n *node) leaf() bool { return n.Leaf != nil }

// layOut chooses names and ports and writes a configuration file for every
// server of a bed.
func layOut(size Size, profile bool, dir, app, sys string) ([]*node, error) {
	var nodes []*node
	if size == Super {
		for _, cluster := range []string{"east", "west"} {
			for i := range 3 {
				nodes = append(nodes, &node{Name: fmt.Sprintf("%s-%d", cluster, i+1), Cluster: cluster})
			}
		}
		nodes = append(nodes, &node{Name: "edge-1", Domain: leafDomain, Leaf: []string{}})
	} else {
		nodes = append(nodes, &node{Name: "bed-1"})
	}
	const each = 6 // ports of a server, at most
	free, err := ports.Free(each * len(nodes))
	if err != nil {
		return nil, err
	}
	link := rand.Text()
	routes, gates := map[string][]string{}, map[string][]string{}
	for i, n := range nodes {
		n.Dir = filepath.Join(dir, n.Name)
		n.App, n.Sys, n.Link = app, sys, link
		n.Port, n.Monitor = free[each*i], free[each*i+1]
		if profile {
			n.Profile = free[each*i+5]
		}
		if n.Cluster != "" {
			n.RoutePort, n.GatewayPort, n.LeafPort = free[each*i+2], free[each*i+3], free[each*i+4]
			routes[n.Cluster] = append(routes[n.Cluster], fmt.Sprintf("nats-route://link:%s@127.0.0.1:%d", link, n.RoutePort))
			gates[n.Cluster] = append(gates[n.Cluster], fmt.Sprintf("nats://link:%s@127.0.0.1:%d", link, n.GatewayPort))
		}
	}
	for _, n := range nodes {
		n.Routes = routes[n.Cluster] // its own included: a server knows itself
		if n.GatewayPort != 0 {
			for _, cluster := range []string{"east", "west"} {
				n.Gateways = append(n.Gateways, gateway{Name: cluster, URLs: gates[cluster]})
			}
		}
		if n.leaf() {
			for _, hub := range nodes[:3] {
				n.Leaf = append(n.Leaf, fmt.Sprintf("127.0.0.1:%d", hub.LeafPort))
			}
		}
		if err := n.write(); err != nil {
			return nil, fmt.Errorf("configure server %s: %w", n.Name, err)
		}
	}
	return nodes, nil
}

// The time-out of a login is longer than a server's own: hundreds connect at
// once, on few cores.
var serverConfig = template.Must(template.New("server").Funcs(template.FuncMap{
	"quoted": func(s string) string { return fmt.Sprintf("%q", s) },
	"list": func(s []string) string {
		q := make([]string, len(s))
		for i := range s {
			q[i] = fmt.Sprintf("%q", s[i])
		}
		return strings.Join(q, ", ")
	},
	"leaf": func(user, password string, hosts []string) string {
		q := make([]string, len(hosts))
		for i, h := range hosts {
			q[i] = fmt.Sprintf("%q", fmt.Sprintf("nats-leaf://%s:%s@%s", user, password, h))
		}
		return strings.Join(q, ", ")
	},
}).Parse(`
server_name: {{quoted .Name}}
listen: "127.0.0.1:{{.Port}}"
http: "127.0.0.1:{{.Monitor}}"
{{- if .Profile}}
prof_port: {{.Profile}}
{{- end}}
jetstream {
	store_dir: {{quoted .Dir}}
	max_memory_store: 4GB
	max_file_store: 8GB
{{- if .Domain}}
	domain: {{.Domain}}
{{- end}}
}
authorization { timeout: 20 }
accounts {
	SYS { users: [ {user: sys, password: "{{.Sys}}"} ] }
	APP { jetstream: enabled, users: [ {user: app, password: "{{.App}}"} ] }
	BILLING { jetstream: enabled, users: [ {user: billing, password: "{{.App}}"} ] }
}
system_account: SYS
{{- if .Cluster}}
cluster {
	name: {{.Cluster}}
	listen: "127.0.0.1:{{.RoutePort}}"
	authorization { user: link, password: "{{.Link}}", timeout: 20 }
	routes: [ {{list .Routes}} ]
}
gateway {
	name: {{.Cluster}}
	listen: "127.0.0.1:{{.GatewayPort}}"
	authorization { user: link, password: "{{.Link}}", timeout: 20 }
	gateways: [
{{- range .Gateways}}
		{ name: {{.Name}}, urls: [ {{list .URLs}} ] }
{{- end}}
	]
}
leafnodes { listen: "127.0.0.1:{{.LeafPort}}" }
{{- end}}
{{- if .Leaf}}
leafnodes {
	remotes: [
		{ urls: [ {{leaf "app" .App .Leaf}} ], account: APP }
		{ urls: [ {{leaf "sys" .Sys .Leaf}} ], account: SYS }
	]
}
{{- end}}
`))

func (n *node) write() error {
	var text bytes.Buffer
	if err := serverConfig.Execute(&text, n); err != nil {
		return err
	}
	if err := os.Mkdir(n.Dir, 0o700); err != nil {
		return err
	}
	n.config = filepath.Join(n.Dir, "nats-server.conf")
	return os.WriteFile(n.config, text.Bytes(), 0o600)
}

func (n *node) url() string        { return fmt.Sprintf("nats://127.0.0.1:%d", n.Port) }
func (n *node) monitorURL() string { return fmt.Sprintf("http://127.0.0.1:%d", n.Monitor) }

func (n *node) profileURL() string {
	if n.Profile == 0 {
		return ""
	}
	return fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/", n.Profile)
}
