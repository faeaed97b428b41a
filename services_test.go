package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ballast/internal/browser"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// course is a chart as JSON.
type course struct {
	Series []struct {
		Label  string `json:"label"`
		Points []struct {
			Value *float64 `json:"value"`
		} `json:"points"`
	} `json:"series"`
}

// highest is the greatest value of a line; negative when it has none.
func (c course) highest(label string) float64 {
	high := -1.0
	for _, s := range c.Series {
		for _, p := range s.Points {
			if s.Label == label && p.Value != nil {
				high = max(high, *p.Value)
			}
		}
	}
	return high
}

// Micro services, an account near its limits and two servers of one name on real
// servers: their pages, their charts, live in a browser, as they were before, and
// as exports. With BALLAST_SCREENSHOTS=DIR pictures are written there.
func TestServicesAndAccountsOnTheirPages(t *testing.T) {
	t.Parallel()
	const soon = 2 * time.Minute
	srv := natstest.Server(t, natstest.Config(`server_name: twin
accounts {
  SYS { users: [ { user: "`+natstest.SysUser+`", password: "`+natstest.SysPassword+`" } ] }
  APP { users: [ { user: "`+natstest.AppUser+`", password: "`+natstest.AppPassword+`" } ]
    jetstream: { max_mem: 1048576, max_file: 65536, max_streams: 3, max_consumers: 4 } }
}
system_account: SYS
`))
	other := natstest.Server(t, natstest.Config("server_name: twin\n"))
	const others = 9
	for range others {
		natstest.Connect(t, other.ClientURL())
	}
	connect := func() *nats.Conn {
		return natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	}
	js, err := jetstream.New(connect())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	for range 15 { // 60 KiB of 64
		if _, err := js.Publish(t.Context(), "orders", make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
	}
	client := connect()
	for i, region := range []string{"eu", "us"} {
		group, err := micro.AddService(connect(), micro.Config{Name: "pay", Version: fmt.Sprintf("1.%d.0", i), Description: "takes <b>money</b>", Metadata: map[string]string{"region": region}, QueueGroup: "payers",
			StatsHandler: func(*micro.Endpoint) any { return map[string]any{"cpu": 12.5, "memory": 32 << 20} }})
		if err != nil {
			t.Fatal(err)
		}
		for name, answer := range map[string]micro.HandlerFunc{
			"charge": func(r micro.Request) { _ = r.Respond([]byte("done")) },
			"refund": func(r micro.Request) { _ = r.Error("500", "no <i>refund</i>", nil) },
		} {
			if err := group.AddEndpoint(name, answer, micro.WithEndpointSubject("pay."+name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				asked <- nil
				return
			case <-tick.C:
			}
			subject := "pay.charge"
			if n%4 == 0 {
				subject = "pay.refund"
			}
			if _, err := client.Request(subject, nil, 30*time.Second); err != nil && ctx.Err() == nil {
				asked <- fmt.Errorf("ask the service: %w", err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		if err := <-asked; err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	secret := func(name, password string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p := startProcess(t, "ballast", nil, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--interval", "1s",
		"--nats", srv.ClientURL(), "--user", natstest.AppUser, "--password-file", secret("app", natstest.AppPassword),
		"--monitor", natstest.MonitorURL(srv)+","+natstest.MonitorURL(other))
	base := p.url(t)

	type line struct {
		Instance  string  `json:"instance"`
		Endpoint  string  `json:"endpoint"`
		Requests  uint64  `json:"requests"`
		Errors    uint64  `json:"errors"`
		Queue     string  `json:"queue"`
		LastError string  `json:"last_error"`
		MeanMS    float64 `json:"processing_mean_ms"`
	}
	ends := func(query string) []line {
		var lines []line
		code, body := tryGet(base + "/services/APP/pay.json" + query)
		if code == 200 {
			if err := json.Unmarshal(body, &lines); err != nil {
				t.Fatal(err)
			}
		}
		return lines
	}
	sum := func(lines []line) (requests, failed uint64) {
		for _, l := range lines {
			requests, failed = requests+l.Requests, failed+l.Errors
		}
		return requests, failed
	}
	wait.For(t, soon, "both instances at work", func() bool {
		lines := ends("")
		requests, failed := sum(lines)
		return len(lines) == 4 && requests > 50 && failed > 5
	})
	for _, l := range ends("") {
		if l.Queue != "payers" || l.Requests == 0 || l.MeanMS <= 0 || l.Endpoint == "refund" && (l.Errors != l.Requests || l.LastError != "500:no <i>refund</i>") || l.Endpoint == "charge" && l.Errors > 0 {
			t.Errorf("an endpoint is %+v", l)
		}
	}
	chart := func(id, query string) course { return getJSON[course](t, base+"/charts/"+id+".json?"+query) }
	const pay = "account=APP&service=pay"
	wait.For(t, soon, "the service's course", func() bool {
		requests, failed := chart("service-requests", pay), chart("service-errors", pay)
		return requests.highest("charge") > requests.highest("refund") && failed.highest("refund") > 0 && failed.highest("charge") == 0 &&
			chart("service-time", pay).highest("charge") > 0 && chart("service-instances", pay).highest("instances") == 2 &&
			chart("service-cpu", pay).highest("CPU") == 12.5 && chart("service-memory", pay).highest("memory") == 64<<20
	})
	wait.For(t, soon, "rows of the export", func() bool {
		code, csv := tryGet(base + "/export?kind=micro+service&key=APP%2Fpay&format=csv&range=1h")
		return code == 200 && strings.HasPrefix(string(csv), "time,step_ms,requests_per_s,") && strings.Count(string(csv), "\r\n") > 2
	})

	// Two servers of one name have a series each.
	names := map[string]int{}
	wait.For(t, soon, "both servers", func() bool {
		clear(names)
		for _, s := range getJSON[[]struct {
			Name  string `json:"name"`
			Conns int    `json:"connections"`
		}](t, base+"/servers.json") {
			names[s.Name] = s.Conns
		}
		return len(names) == 2
	})
	for name, conns := range names {
		wait.For(t, soon, "connections of "+name, func() bool {
			return chart("server-conns", "server="+url.QueryEscape(name)).highest(name) == float64(conns)
		})
		if (conns == others) != (chart("server-conns", "server="+url.QueryEscape(name)).highest(name) == others) {
			t.Errorf("the figures of the two servers are mixed: %v", names)
		}
	}

	tab := browser.Open(t, 1440, 900)
	tab.Go(base + "/accounts/APP")
	tab.Wait("the account's limits", soon, `/KiB of 64\.0 KiB, 9\d %/.test(document.querySelector('#acc-limits-bars').innerText) && document.querySelector('#acc-limits-bars [data-state=warn] .st-warn') !== null`)
	if got := tab.Text("#acc-limits-bars"); !strings.Contains(got, "near its limit") || !strings.Contains(got, "limit not told") {
		t.Errorf("the limits: %s", got)
	}
	tab.Go(base + "/services/APP/pay")
	was := tab.Text(`[data-k="svc/requests"]`)
	tab.Wait("figures that move by themselves", soon, fmt.Sprintf(`document.querySelector('[data-k="svc/requests"]').textContent !== %q`, was))
	for _, want := range []string{"2 instances answer", "1.0.0 ×1, 1.1.0 ×1", "eu ×1, us ×1", "takes <b>money</b>", "no <i>refund</i>", "nats micro stats pay", "payers", "32.0 MiB"} {
		if got := tab.Text("main"); !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, c := range tab.Complaints() {
		t.Errorf("the browser complains: %s", c)
	}
	lookAt(t, base, map[string]string{"service": "/services/APP/pay", "services": "/services", "account-limits": "/accounts/APP", "server": "/servers/twin", "servers-of-one-name": "/servers", "overview-unsplit": "/"})
	if code := p.end(t, syscall.SIGTERM, time.Minute); code != exitOK {
		t.Errorf("the console ended with code %d", code)
	}
}
