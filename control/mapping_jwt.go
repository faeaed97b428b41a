package control

import (
	"context"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"ballast/fleet"
	"ballast/traffic"
)

// claimsDriver writes a split as weighted mapping into the claims of an account,
// signs them and pushes them to the servers' resolvers.
type claimsDriver struct {
	servers
	// key reads the operator's signing key, each time anew: it is in memory no
	// longer than a signature takes, and may be replaced.
	key func() (nkeys.KeyPair, error)
	// repeated are the claims that were last pushed as they are; guarded by pushing.
	// A server that still does not follow is given new ones.
	repeated string
}

// ClaimsConfig says what NewClaimsDriver needs.
type ClaimsConfig struct {
	Conn    *nats.Conn // of the account whose messages are divided
	System  *nats.Conn // of the system account
	KeyFile string     // the operator's signing key: a seed, as nsc writes it
	Now     func() time.Time
}

// NewClaimsDriver is the driver of splits with traffic.DriverMappingJWT.
func NewClaimsDriver(cfg ClaimsConfig) Driver {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	return &claimsDriver{servers: servers{sys: cfg.System, conn: cfg.Conn, now: now}, key: func() (nkeys.KeyPair, error) { return readKey(cfg.KeyFile) }}
}

// readKey reads an operator's seed from a file.
func readKey(file string) (nkeys.KeyPair, error) {
	if file == "" {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "Mappings in an account's claims need the operator's signing key.", Hint: "Give the console its file: --operator-key-file."}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, unavailable("The operator's signing key cannot be read.", "Check --operator-key-file.", fmt.Errorf("read the signing key: %w", err))
	}
	defer clear(text)
	kp, err := jwt.ParseDecoratedNKey(text)
	if err == nil {
		var public string
		if public, err = kp.PublicKey(); err == nil && !nkeys.IsValidPublicOperatorKey(public) {
			err = errors.New("it is the key of no operator")
		}
	}
	if err != nil {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "The file of the operator's signing key holds none.", Hint: "It is a seed that begins with SO.", Err: err}
	}
	return kp, nil
}

// claims are an account's claims as the resolver has them. The payload is kept as
// it came: what this program does not know of must not be lost by signing anew.
type claims struct {
	token    string
	payload  map[string]json.RawMessage
	nats     map[string]json.RawMessage
	mappings map[string]json.RawMessage
}

// lookUp reads the account's claims.
func (d *claimsDriver) lookUp(ctx context.Context) (claims, error) {
	if d.sys == nil {
		return claims{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The servers' own mappings need the system account.", Hint: "Give the console its credentials: --sys-creds."}
	}
	account, err := d.account(ctx)
	if err != nil {
		return claims{}, err
	}
	if !nkeys.IsValidPublicAccountKey(account) {
		return claims{}, &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Account %s has no claims: the servers are not in operator mode.", account), Hint: "Use the driver mapping-config."}
	}
	all, err := d.ask(ctx, "$SYS.REQ.ACCOUNT."+account+".CLAIMS.LOOKUP", nil)
	if err != nil {
		return claims{}, unavailable("The resolver does not tell the account's claims.",
			"The system user must be allowed to ask $SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP, and the servers need a resolver of type full.", fmt.Errorf("look up account %s: %w", account, err))
	}
	c, err := newestClaims(all)
	if err != nil {
		return claims{}, fmt.Errorf("read the claims of account %s: %w", account, err)
	}
	return c, nil
}

// newestClaims are the claims that were issued last. A server that was away answers
// with older ones: to build upon those would take back what was changed since.
func newestClaims(tokens [][]byte) (claims, error) {
	var best claims
	for _, token := range tokens {
		if len(token) == 0 { // the server does not know the account
			continue
		}
		c, err := readClaims(string(token))
		if err != nil {
			return claims{}, err
		}
		switch {
		case best.token == "" || c.issued() > best.issued():
			best = c
		case c.issued() < best.issued() || c.token == best.token:
		case !c.sameBut(best):
			return claims{}, &fleet.Error{Kind: fleet.Stale, Msg: "The servers hold two versions of the account's claims, both of the same second.", Hint: "Nobody can tell which is newer: push the right one with nsc, then try again."}
		case c.token > best.token: // two consoles at once: what the one loses here its next look brings back
			best = c
		}
	}
	if best.token == "" {
		return claims{}, errors.New("no server knows the account")
	}
	return best, nil
}

func readClaims(token string) (claims, error) {
	known, err := jwt.DecodeAccountClaims(token) // also checks the signature
	if err != nil {
		return claims{}, fmt.Errorf("decode claims: %w", err)
	}
	if known.Version != 2 {
		return claims{}, invalid(fmt.Sprintf("The account's claims are of version %d.", known.Version), "Update them with nsc to version 2 first.", nil)
	}
	c := claims{token: token, payload: map[string]json.RawMessage{}, nats: map[string]json.RawMessage{}, mappings: map[string]json.RawMessage{}}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return claims{}, fmt.Errorf("decode claims: %w", err)
	}
	if err = json.Unmarshal(raw, &c.payload); err == nil {
		err = member(c.payload, "nats", &c.nats)
	}
	if err == nil {
		err = member(c.nats, "mappings", &c.mappings)
	}
	if err != nil {
		return claims{}, fmt.Errorf("decode claims: %w", err)
	}
	if c.mappings == nil { // "null"
		c.mappings = map[string]json.RawMessage{}
	}
	return c, nil
}

// sameBut reports whether claims differ in nothing but the mappings and who signed
// them.
func (c claims) sameBut(o claims) bool {
	equal := func(a, b map[string]json.RawMessage, but ...string) bool {
		for _, m := range []map[string]json.RawMessage{a, b} {
			for k := range m {
				if !slices.Contains(but, k) && string(a[k]) != string(b[k]) {
					return false
				}
			}
		}
		return true
	}
	return equal(c.payload, o.payload, "nats", "iss", "jti") && equal(c.nats, o.nats, "mappings")
}

// member reads an object's member that may not be there.
func member(of map[string]json.RawMessage, name string, into *map[string]json.RawMessage) error {
	if raw, ok := of[name]; ok {
		return json.Unmarshal(raw, into)
	}
	return nil
}

// mapping is the split's mapping as it shall stand in the claims. What stands
// there for single clusters stays.
func (c claims) mapping(s traffic.Split) ([]destination, error) {
	out := destinations(s)
	var now []destination
	if raw, ok := c.mappings[s.Subject]; ok {
		if err := json.Unmarshal(raw, &now); err != nil {
			return nil, fmt.Errorf("read the mapping of %s: %w", s.Subject, err)
		}
	}
	for _, d := range now {
		if d.Cluster == "" {
			continue
		}
		// A server counts destinations over all clusters and refuses one that it
		// meets twice.
		if slices.ContainsFunc(out, func(o destination) bool { return o.Subject == d.Subject }) {
			return nil, invalid(fmt.Sprintf("The claims give cluster %s weights of its own, and %s is one of its destinations: servers refuse a destination that stands twice.", d.Cluster, d.Subject),
				fmt.Sprintf("Take the lines of cluster %s out of the claims, or give this target another subject.", d.Cluster), map[string]string{"subject": "cluster " + d.Cluster + " has weights of its own in the claims"})
		}
		out = append(out, d)
	}
	return out, nil
}

// says is the token of claims that have the split's mapping already and that the
// key signed. To push it again costs nothing on the servers that hold it, and the
// others get it: a repair need not have every server take over new claims.
func (c claims) says(s traffic.Split, key nkeys.KeyPair) (string, error) {
	public, err := key.PublicKey()
	if err != nil {
		return "", fmt.Errorf("read the signing key: %w", err)
	}
	var issuer string
	var now []destination
	if json.Unmarshal(c.payload["iss"], &issuer) != nil || issuer != public || json.Unmarshal(c.mappings[s.Subject], &now) != nil {
		return "", nil
	}
	want, err := c.mapping(s)
	if err != nil || !slices.Equal(now, want) {
		return "", err
	}
	return c.token, nil
}

// signed is the claims with the split's mapping, signed. Nothing else differs but
// issuer, time and id.
func (c claims) signed(s traffic.Split, key nkeys.KeyPair, now time.Time) (string, error) {
	m, err := c.mapping(s)
	if err != nil {
		return "", err
	}
	mappings, body, payload := cloned(c.mappings), cloned(c.nats), cloned(c.payload)
	public, err := key.PublicKey()
	if err != nil {
		return "", fmt.Errorf("read the signing key: %w", err)
	}
	set := func(in map[string]json.RawMessage, name string, v any) {
		if err == nil {
			in[name], err = json.Marshal(v)
		}
	}
	set(mappings, s.Subject, m)
	set(body, "mappings", mappings)
	set(payload, "nats", body)
	set(payload, "iss", public)
	set(payload, "iat", max(now.Unix(), c.issued()+1)) // of two in one second nobody knows which is newer
	delete(payload, "jti")
	set(payload, "jti", "")
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	text, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	sum := sha512.Sum512_256(text)
	set(payload, "jti", base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
	if text, err = json.Marshal(payload); err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`))
	signing := head + "." + base64.RawURLEncoding.EncodeToString(text)
	sig, err := key.Sign([]byte(signing))
	if err != nil {
		return "", fmt.Errorf("sign claims: %w", err)
	}
	token := signing + "." + base64.RawURLEncoding.EncodeToString(sig)
	checked, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return "", fmt.Errorf("check the signed claims: %w", err)
	}
	var found jwt.ValidationResults
	checked.Validate(&found)
	if errs := found.Errors(); len(errs) > 0 {
		return "", invalid("The account's claims would not be valid.", "Nothing was pushed.", errors.Join(errs...))
	}
	return token, nil
}

func (c claims) issued() int64 {
	var at int64
	_ = json.Unmarshal(c.payload["iat"], &at) // jwt has read it already
	return at
}

func cloned(m map[string]json.RawMessage) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(m)+1)
	for k, v := range m {
		out[k] = v
	}
	return out
}

// trusted reports whether the servers take claims that the key signs. They answer
// "updated" to any others too, and then lose the account at their next start.
func (d *claimsDriver) trusted(ctx context.Context, public string) error {
	replies, err := d.gather(ctx, "$SYS.REQ.SERVER.PING.VARZ", nil)
	if err != nil {
		return err
	}
	for _, r := range replies {
		var v struct {
			JWT []string `json:"trusted_operators_jwt"`
		}
		if err := json.Unmarshal(r.Data, &v); err != nil {
			return fmt.Errorf("parse the answer of server %q: %w", r.Server.Name, err)
		}
		if len(v.JWT) == 0 {
			return &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Server %s trusts no operator.", r.Server.Name), Hint: "Its accounts stand in its configuration: use the driver mapping-config."}
		}
		ok := false
		for _, token := range v.JWT {
			op, err := jwt.DecodeOperatorClaims(token)
			if err != nil {
				return fmt.Errorf("read the operator of server %q: %w", r.Server.Name, err)
			}
			ok = ok || slices.Contains(op.SigningKeys, public) || !op.StrictSigningKeyUsage && op.Subject == public
		}
		if !ok {
			return &fleet.Error{Kind: fleet.Forbidden, Msg: fmt.Sprintf("Server %s does not trust the signing key %s.", r.Server.Name, public), Hint: "Add it to the operator (nsc edit operator --sk) and update the servers, or give another --operator-key-file."}
		}
	}
	return nil
}

// prepare looks up the claims and refuses what no server takes.
func (d *claimsDriver) prepare(ctx context.Context, s traffic.Split) (claims, nkeys.KeyPair, error) {
	c, err := d.lookUp(ctx)
	if err != nil {
		return claims{}, nil, err
	}
	if err := refuseOverlap(c.mappings, s); err != nil {
		return claims{}, nil, err
	}
	if _, err := c.mapping(s); err != nil {
		return claims{}, nil, err
	}
	key, err := d.key()
	if err != nil {
		return claims{}, nil, err
	}
	public, err := key.PublicKey()
	if err == nil {
		err = d.trusted(ctx, public)
	}
	if err != nil {
		key.Wipe()
		return claims{}, nil, err
	}
	return c, key, nil
}

// Check implements Driver.
func (d *claimsDriver) Check(ctx context.Context, s traffic.Split) ([]string, error) {
	c, key, err := d.prepare(ctx, s)
	if err != nil {
		return nil, err
	}
	key.Wipe()
	around, err := d.lookAround(ctx)
	if err != nil {
		return nil, err
	}
	warn := d.warnings(ctx, s, around)
	m, err := c.mapping(s)
	if err != nil {
		return nil, err
	}
	clusters := map[string]bool{}
	for _, x := range m {
		if x.Cluster != "" && !clusters[x.Cluster] {
			clusters[x.Cluster] = true
			warn = append(warn, fmt.Sprintf("The servers of cluster %s have weights of their own for %s in the claims; they stay and go before these.", x.Cluster, s.Subject))
		}
	}
	return warn, nil
}

// Text implements Driver.
func (d *claimsDriver) Text(ctx context.Context, s traffic.Split) (string, []string, error) {
	c, err := d.lookUp(ctx)
	if err != nil {
		return "", nil, err
	}
	m, err := c.mapping(s)
	if err != nil {
		return "", nil, err
	}
	text, err := json.MarshalIndent(map[string]any{"nats": map[string]any{"mappings": map[string]any{s.Subject: m}}}, "", "  ")
	if err != nil {
		return "", nil, fmt.Errorf("encode the mapping: %w", err)
	}
	name := ""
	if raw, ok := c.payload["name"]; ok {
		_ = json.Unmarshal(raw, &name)
	}
	var commands []string
	for _, x := range destinations(s) {
		commands = append(commands, fmt.Sprintf("nsc add mapping --account %s --from %s --to %s --weight %d",
			shellQuote(printable([]byte(name))), shellQuote(printable([]byte(s.Subject))), shellQuote(printable([]byte(x.Subject))), x.Weight))
	}
	return string(text), append(commands, "nsc push --account "+shellQuote(printable([]byte(name)))), nil
}

// Push implements Driver.
func (d *claimsDriver) Push(ctx context.Context, s traffic.Split) error {
	d.pushing.Lock()
	defer d.pushing.Unlock()
	c, key, err := d.prepare(ctx, s)
	if err != nil {
		return err
	}
	defer key.Wipe()
	token, err := c.says(s, key)
	if token == d.repeated {
		token = ""
	}
	d.repeated = token
	if err == nil && token == "" {
		token, err = c.signed(s, key, d.now())
	}
	if err != nil {
		return err
	}
	refused := d.update(ctx, token)
	if refused == nil || fleet.KindOf(refused) != fleet.Invalid {
		return refused
	}
	// Some may have taken them: all go back to what they had, which servers take
	// although it is older.
	rest, cancel := rest(ctx, 2*gatherFor)
	defer cancel()
	if err := d.update(rest, c.token); err != nil && fleet.KindOf(err) != fleet.Invalid { // who refused kept what it had
		return errors.Join(refused, fmt.Errorf("put the claims back as they were: %w", err))
	}
	return refused
}

// update gives claims to every server's resolver.
func (d *claimsDriver) update(ctx context.Context, token string) error {
	replies, err := d.gather(ctx, "$SYS.REQ.CLAIMS.UPDATE", []byte(token))
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.Error != nil {
			return &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Server %s refuses the account's claims: %s", r.Server.Name, r.Error.Description),
				Hint: "The claims before were pushed again, so the weights before stay in force. The server's log says more."}
		}
	}
	return nil
}
