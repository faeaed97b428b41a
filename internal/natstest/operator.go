package natstest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Operator is a cluster in operator mode: its accounts stand in claims that a
// resolver of type full holds on every server.
type Operator struct {
	*Servers
	Account string // public key of account APP
	KeyFile string // the seed of the operator's signing key
	Key     nkeys.KeyPair

	sysKey nkeys.KeyPair
}

// ResolverInterval is how often the resolvers of an OperatorCluster bring each
// other up to date by themselves; 2 s if not said.
func ResolverInterval(d time.Duration) Option { return func(c *config) { c.interval = d } }

// OperatorCluster starts n servers in operator mode. edit may change the claims of
// account APP before they are signed.
func OperatorCluster(tb testing.TB, n int, edit func(*jwt.AccountClaims), opts ...Option) *Operator {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	pair := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		tb.Helper()
		kp, err := make()
		must(err)
		public, err := kp.PublicKey()
		must(err)
		return kp, public
	}
	dir := tb.TempDir()
	identity, op := pair(nkeys.CreateOperator)
	signing, signer := pair(nkeys.CreateOperator)
	sysKey, sys := pair(nkeys.CreateAccount)
	appKey, app := pair(nkeys.CreateAccount)
	sign := func(c jwt.Claims, by nkeys.KeyPair) string {
		tb.Helper()
		token, err := c.Encode(by)
		must(err)
		return token
	}
	write := func(name string, text []byte) string {
		tb.Helper()
		file := filepath.Join(dir, name)
		must(os.WriteFile(file, text, 0o600))
		return file
	}

	oc := jwt.NewOperatorClaims(op)
	oc.Name, oc.SystemAccount = "OP", sys
	oc.SigningKeys.Add(signer)
	operator := write("operator.jwt", []byte(sign(oc, identity)))
	sc, ac := jwt.NewAccountClaims(sys), jwt.NewAccountClaims(app)
	sc.Name, ac.Name = "SYS", "APP"
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	if edit != nil {
		edit(ac)
	}
	preload := fmt.Sprintf("%s: %s, %s: %s", sys, sign(sc, signing), app, sign(ac, signing))
	creds := func(name string, by nkeys.KeyPair) nats.Option { return credentials(tb, dir, name, by, nil) }
	seed, err := signing.Seed()
	must(err)
	o := &Operator{
		Servers: &Servers{tb: tb, account: app, app: []nats.Option{creds("app", appKey)}, sys: []nats.Option{creds("sys", sysKey)}},
		Account: app, Key: signing, KeyFile: write("operator.nk", seed), sysKey: sysKey,
	}
	said := config{interval: 2 * time.Second}
	for _, opt := range opts {
		opt(&said)
	}
	o.start(n, func(dir string) string {
		return fmt.Sprintf(`
operator: %q
system_account: %s
resolver: { type: full, dir: %q, allow_delete: false, interval: %q }
resolver_preload: { %s }
`, operator, sys, filepath.Join(dir, "jwt"), said.interval.String(), preload)
	}, opts)
	return o
}

// SysUser is a new user of the system account with the rights that edit gives it.
func (o *Operator) SysUser(tb testing.TB, edit func(*jwt.UserClaims)) nats.Option {
	tb.Helper()
	return credentials(tb, tb.TempDir(), "user", o.sysKey, edit)
}

// credentials writes those of a new user of an account into a file.
func credentials(tb testing.TB, dir, name string, account nkeys.KeyPair, edit func(*jwt.UserClaims)) nats.Option {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	kp, err := nkeys.CreateUser()
	must(err)
	public, err := kp.PublicKey()
	must(err)
	uc := jwt.NewUserClaims(public)
	uc.Name = name
	if edit != nil {
		edit(uc)
	}
	token, err := uc.Encode(account)
	must(err)
	seed, err := kp.Seed()
	must(err)
	text, err := jwt.FormatUserConfig(token, seed)
	must(err)
	file := filepath.Join(dir, name+".creds")
	must(os.WriteFile(file, text, 0o600))
	return nats.UserCredentials(file)
}
