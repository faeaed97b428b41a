package main

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// cli is the command line. Every flag is also an environment variable
// (--sys-creds: BALLAST_SYS_CREDS) and a key of the YAML file named by
// --config (sys-creds: …). A flag wins over the environment, the environment
// over the file.
type cli struct {
	Config    kong.ConfigFlag `help:"YAML file with any of these flags, by their names." placeholder:"FILE" env:"BALLAST_CONFIG"`
	LogLevel  slog.Level      `help:"debug, info, warn or error." default:"info"`
	LogFormat string          `help:"text or json." enum:"text,json" default:"text"`

	Serve   serveCmd   `cmd:"" help:"Run the console for your own NATS."`
	Demo    demoCmd    `cmd:"" help:"Run a NATS cluster, a workload and the console in this process, to try Ballast out."`
	Health  healthCmd  `cmd:"" help:"Ask a running console whether it is up; for container health checks."`
	Version versionCmd `cmd:"" help:"Print the version."`

	Bed       bedCmd       `cmd:"" hidden:"" help:"Raise a NATS system on loopback to measure a console against, until interrupted."`
	BedServer bedServerCmd `cmd:"" hidden:"" help:"Be one nats-server of a bed."`
}

// webFlags say where the console is served and who uses it.
type webFlags struct {
	Listen      string   `help:"Address of the console." default:"127.0.0.1:8080" placeholder:"HOST:PORT" group:"Console"`
	AllowRemote bool     `help:"Listen on an address that is not loopback. The console has no login yet: whoever reaches it can change weights. Put an authenticating proxy before it." group:"Console"`
	Host        []string `help:"Host header to answer besides loopback names, against DNS rebinding; repeatable. Needed behind a proxy." placeholder:"NAME" group:"Console"`
	Operator    string   `help:"Name written into the journal for what is done through the console." default:"${operator}" group:"Console"`
}

// serveCmd is the configuration of "ballast serve".
type serveCmd struct {
	webFlags
	Data string        `help:"Directory for measurements and the journal." default:"${data}" type:"path" placeholder:"DIR" group:"Console"`
	Bake time.Duration `help:"How long the effect of a change is watched before it counts as verified." default:"60s" group:"Console"`
	Name string        `help:"Name of this NATS system, shown in the console. Default: the context's or the first server's name." group:"Console"`

	NATS         []string `name:"nats" help:"NATS server; repeatable. Default nats://127.0.0.1:4222, unless --context or --monitor is given." placeholder:"URL" sep:"," group:"NATS"`
	Context      string   `help:"Take servers and credentials from this context of the nats command." placeholder:"NAME" group:"NATS"`
	Creds        string   `help:"Credentials file of the account whose traffic is steered." type:"path" placeholder:"FILE" group:"NATS"`
	User         string   `help:"User of that account, with --password-file." group:"NATS"`
	PasswordFile string   `help:"File that holds the user's password." type:"path" placeholder:"FILE" group:"NATS"`
	InboxPrefix  string   `help:"Prefix of reply subjects, where the user's permissions ask for a private one." default:"_INBOX" group:"NATS"`
	TLSCA        string   `name:"tls-ca" help:"CA certificates to trust, for NATS and for monitoring over https." type:"path" placeholder:"FILE" group:"NATS"`
	TLSCert      string   `name:"tls-cert" help:"Client certificate." type:"path" placeholder:"FILE" group:"NATS"`
	TLSKey       string   `name:"tls-key" help:"Key of the client certificate." type:"path" placeholder:"FILE" group:"NATS"`

	SysCreds        string `help:"Credentials file of the system account: finds every server of a super-cluster by one request, no monitoring port needed." type:"path" placeholder:"FILE" group:"Watching"`
	SysUser         string `help:"User of the system account, with --sys-password-file." group:"Watching"`
	SysPasswordFile string `help:"File that holds its password." type:"path" placeholder:"FILE" group:"Watching"`

	OperatorKeyFile string `help:"Seed of an operator signing key: splits of driver mapping-jwt are then written into the account's claims. The key can sign any account: keep the file as you keep the operator's." type:"path" placeholder:"FILE" group:"Steering"`
	MappingFile     string `help:"File that the servers' configuration includes in the account's mappings: splits of driver mapping-config are written there." type:"path" placeholder:"FILE" group:"Steering"`

	Monitor  []string      `help:"Monitoring URL of a server, such as http://127.0.0.1:8222; repeatable. Other servers are discovered from it." placeholder:"URL" sep:"," group:"Watching"`
	Interval time.Duration `help:"Time between two looks." default:"5s" group:"Watching"`
	// The default spares the servers; see docs/operating.md.
	AllSamples bool `help:"Listen to every ACK sample, also when there are many. By default those of consumers that are no target of a split are then heard in turns, which spares the servers." group:"Watching"`
	ReadOnly   bool `help:"Only watch: nothing can be applied through this console." group:"Watching"`
}

// demoCmd is the configuration of "ballast demo".
type demoCmd struct {
	webFlags
	Rate    float64 `help:"Messages per second." default:"300"`
	Servers int     `help:"Size of the NATS cluster: 1, 3 or 5." default:"3"`
	Seed    uint64  `help:"Seed of the workload's randomness." default:"1"`
	Data    string  `help:"Directory to keep everything in. Default: a temporary one that is removed at the end." type:"path" placeholder:"DIR"`
}

// healthCmd is the configuration of "ballast health".
type healthCmd struct {
	Listen string `help:"Address the console listens on." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
}

type versionCmd struct{}

// bedCmd is the configuration of "ballast bed".
type bedCmd struct {
	Size  string  `help:"S: 20 streams, 100 consumers, 200 connections. L: 500, 5,000, 2,000. super: two clusters of three servers and a leaf node." enum:"S,L,super" default:"S"`
	Dir   string  `help:"Directory of the servers and the passwords, which are removed at the end. Default: a temporary one." type:"path" placeholder:"DIR"`
	Rate  float64 `help:"Messages per second; 0 for none." default:"200"`
	Churn float64 `help:"Ephemeral consumers created per second; 0 for none." default:"0"`

	Profile bool `help:"Open the profilers of the servers, to see what a watcher costs them and for what."`
}

// bedServerCmd is the configuration of "ballast bed-server".
type bedServerCmd struct {
	File string `name:"server-config" short:"c" required:"" type:"existingfile" placeholder:"FILE" help:"The server's configuration file."`
}

// AfterApply reports every mistake in the flags at once.
func (c *serveCmd) AfterApply() error {
	var bad mistakes
	bad.add(c.webFlags.check())
	bad.check(c.User == "" || c.PasswordFile != "", "--user needs --password-file")
	bad.check(c.SysUser == "" || c.SysPasswordFile != "", "--sys-user needs --sys-password-file")
	bad.check(c.Creds == "" || c.User == "", "--creds and --user exclude each other")
	bad.check(c.SysCreds == "" || c.SysUser == "", "--sys-creds and --sys-user exclude each other")
	bad.check(c.Context == "" || len(c.NATS) == 0 && c.Creds == "" && c.User == "", "--context brings servers and credentials: leave out --nats, --creds and --user")
	bad.check(c.OperatorKeyFile == "" && c.MappingFile == "" || c.SysCreds != "" || c.SysUser != "", "--operator-key-file and --mapping-file need the system account: --sys-creds or --sys-user")
	bad.check((c.TLSCert == "") == (c.TLSKey == ""), "--tls-cert and --tls-key go together")
	bad.check(c.Interval >= 500*time.Millisecond && c.Interval <= time.Minute, "--interval must lie between 500ms and 1m")
	bad.check(c.Bake >= time.Second && c.Bake <= 24*time.Hour, "--bake must lie between 1s and 24h")
	for _, f := range []string{c.Creds, c.PasswordFile, c.SysCreds, c.SysPasswordFile, c.TLSCA, c.TLSCert, c.TLSKey, c.OperatorKeyFile} {
		if f != "" {
			_, err := os.Stat(f)
			bad.add(err)
		}
	}
	if len(c.NATS) == 0 && c.Context == "" && len(c.Monitor) == 0 {
		c.NATS = []string{"nats://127.0.0.1:4222"}
		c.Monitor = []string{"http://127.0.0.1:8222"}
	}
	return bad.err()
}

func (c *demoCmd) AfterApply() error {
	var bad mistakes
	bad.add(c.webFlags.check())
	bad.check(slices.Contains([]int{1, 3, 5}, c.Servers), "--servers must be 1, 3 or 5")
	bad.check(c.Rate > 0 && c.Rate <= 5000, "--rate must lie between 1 and 5000")
	return bad.err()
}

func (c webFlags) check() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if c.AllowRemote || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--listen %s can be reached from other machines and the console has no login: use 127.0.0.1, or add --allow-remote and put an authenticating proxy before it", c.Listen)
	}
	return nil
}

type mistakes []string

func (m *mistakes) check(ok bool, text string) {
	if !ok {
		*m = append(*m, text)
	}
}

func (m *mistakes) add(err error) {
	if err != nil {
		*m = append(*m, err.Error())
	}
}

func (m mistakes) err() error {
	if len(m) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(m, "\n  "))
}

// parse reads flags, environment and file. It prints help and the like by
// itself, which ends in exit.
func parse(args []string, stdout, stderr io.Writer, exit func(int)) (*cli, *kong.Context, error) {
	var c cli
	p, err := kong.New(&c,
		kong.Name("ballast"),
		kong.Description("The operations console for load balancing on NATS: see the traffic, see what it costs, steer it, prove that it helped."),
		kong.DefaultEnvars("BALLAST"),
		kong.Configuration(loadYAML),
		kong.Vars{"data": defaultData(), "operator": defaultOperator()},
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: false, FlagsLast: true}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "NATS", Title: "NATS: the account whose traffic is steered"},
			{Key: "Watching", Title: "Watching: where the servers' figures come from"},
			{Key: "Console", Title: "Console"},
		}),
	)
	if err != nil {
		return nil, nil, err
	}
	ctx, err := p.Parse(args)
	return &c, ctx, err
}

// yamlFile resolves flags from a flat YAML mapping; keys are flag names.
type yamlFile map[string]any

func loadYAML(r io.Reader) (kong.Resolver, error) {
	values := yamlFile{}
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the configuration file: %w", err)
	}
	return values, nil
}

// Validate refuses keys that are no flag: a misspelt setting must not be
// ignored in silence.
func (y yamlFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	var collect func(n *kong.Node)
	collect = func(n *kong.Node) {
		for _, f := range n.Flags {
			known[f.Name] = true
		}
		for _, child := range n.Children {
			collect(child)
		}
	}
	collect(app.Node)
	var bad mistakes
	for key := range y {
		bad.check(known[key], fmt.Sprintf("the configuration file sets %q, which is no setting", key))
	}
	slices.Sort(bad)
	return bad.err()
}

// Resolve returns the file's value for a flag, unless the environment has one.
func (y yamlFile) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	for _, name := range f.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	v, ok := y[f.Name]
	if !ok {
		return nil, nil
	}
	if list, ok := v.([]any); ok && f.Target.Kind() == reflect.Slice {
		parts := make([]string, len(list))
		for i, e := range list {
			parts[i] = fmt.Sprint(e)
		}
		return strings.Join(parts, ","), nil
	}
	return fmt.Sprint(v), nil
}

func defaultData() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "ballast")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "ballast")
	}
	return "ballast-data"
}

func defaultOperator() string {
	for _, name := range []string{"USER", "USERNAME"} {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return "operator"
}

// secret reads a one-line secret and warns when others can read it too.
func secret(file string, log *slog.Logger) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&(fs.ModePerm&0o077) != 0 {
		log.Warn("a password file can be read by other users of this machine; chmod 600 it", "file", file)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
