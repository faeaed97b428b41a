package demo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// connect connects to the account of the workload. Home is the server that is
// tried first: the workload's connections are spread over all servers.
func (d *Demo) connect(name string, home int) (*nats.Conn, error) {
	return d.cluster.connect(name, home, d.URLs())
}

func (c *cluster) connect(name string, home int, urls []string) (*nats.Conn, error) {
	i := home % len(urls)
	urls = slices.Concat(urls[i:], urls[:i])
	nc, err := nats.Connect(strings.Join(urls, ","), nats.Name(name), nats.DontRandomize(),
		nats.UserInfo(appUser, c.appPassword), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return nc, nil
}
