package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/traffic"
)

// fileDriver writes the mappings of all its splits into a file that the servers'
// configuration includes, and asks each server to read its configuration anew.
type fileDriver struct {
	servers
	file   string // "" when the servers are elsewhere: nothing is written, only looked at
	splits func() []traffic.Split
}

// FileConfig says what NewFileDriver needs.
type FileConfig struct {
	Conn   *nats.Conn // of the account whose messages are divided
	System *nats.Conn // of the system account
	// File is included by the configuration of every server:
	//   accounts { APP { mappings { include "ballast.conf" } } }
	// "" writes none: the text is then for the operator's own configuration
	// management, and only whether it is in force is looked at.
	File string
	// Splits are all splits that the file holds, as they are in force.
	Splits func() []traffic.Split
	Now    func() time.Time
}

// NewFileDriver is the driver of splits with traffic.DriverMappingConfig.
func NewFileDriver(cfg FileConfig) Driver {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	return &fileDriver{servers: servers{sys: cfg.System, conn: cfg.Conn, now: now}, file: cfg.File, splits: cfg.Splits}
}

// all are the splits of the file with s as it shall be, by subject.
func (d *fileDriver) all(s traffic.Split) []traffic.Split {
	var out []traffic.Split
	for _, o := range d.splits() {
		if o.Driver == traffic.DriverMappingConfig && o.Name != s.Name {
			out = append(out, o)
		}
	}
	out = append(out, s)
	slices.SortFunc(out, func(a, b traffic.Split) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}

// render is the text of the file.
func render(splits []traffic.Split) string {
	var b strings.Builder
	b.WriteString("# Written by Ballast; changes by hand are lost. Include it in the mappings of the account.\n")
	for _, s := range splits {
		fmt.Fprintf(&b, "%s: [ # split %s\n", confKey(s.Subject), s.Name)
		for _, x := range destinations(s) {
			fmt.Fprintf(&b, "  { destination: %s, weight: %d }\n", confQuote(x.Subject), x.Weight)
		}
		b.WriteString("]\n")
	}
	return b.String()
}

// confKey makes the name of a member of nats-server's configuration language. It
// ends at the next quote of its kind, and knows no escapes; Check refuses what has
// both kinds.
func confKey(s string) string {
	if strings.Contains(s, `"`) {
		return "'" + s + "'"
	}
	return `"` + s + `"`
}

// confQuote makes a string of nats-server's configuration language (conf/lex.go).
func confQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`, "\n", `\n`, "\r", `\r`).Replace(s) + `"`
}

// Check implements Driver.
func (d *fileDriver) Check(ctx context.Context, s traffic.Split) ([]string, error) {
	if strings.Contains(s.Subject, `"`) && strings.Contains(s.Subject, "'") {
		return nil, invalid("A subject with both kinds of quotes cannot stand in a server's configuration.", "Divide another subject, or use another driver.", map[string]string{"subject": "leave one kind of quotes out"})
	}
	for _, o := range d.all(s) {
		if o.Name != s.Name && o.Subject == s.Subject {
			return nil, invalid(fmt.Sprintf("Split %s maps %s already.", o.Name, s.Subject), "One subject has one mapping.", map[string]string{"subject": "another split of this driver divides it"})
		}
	}
	replies, err := d.accountz(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range replies {
		var a accountReply
		if r.Error != nil {
			continue
		}
		if err := json.Unmarshal(r.Data, &a); err != nil {
			return nil, fmt.Errorf("parse the account of server %q: %w", r.Server.Name, err)
		}
		var sources []string
		for src := range a.Account.Mappings {
			sources = append(sources, src)
		}
		if err := refuseOverlap(sources, s); err != nil {
			return nil, err
		}
	}
	warn := mappingWarnings(s)
	if d.file == "" {
		warn = append(warn, "The console writes no file: hand the text to your own configuration management. Until the servers have it this change is not in force, and the console says so.")
	} else {
		warn = append(warn, "Servers take the file over one after the other: for some milliseconds those publish by different weights.")
	}
	return warn, nil
}

// Text implements Driver.
func (d *fileDriver) Text(_ context.Context, s traffic.Split) (string, []string, error) {
	commands := []string{"nats server request reload <server id>"}
	if d.file != "" {
		commands = append([]string{"$EDITOR " + shellQuote(printable([]byte(d.file)))}, commands...)
	}
	return render(d.all(s)), commands, nil
}

// Push implements Driver.
func (d *fileDriver) Push(ctx context.Context, s traffic.Split) error {
	if d.file == "" {
		return nil
	}
	if _, err := d.Check(ctx, s); err != nil {
		return err
	}
	before, err := os.ReadFile(d.file)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return unavailable("The file of the mappings cannot be read.", "Check --mapping-file.", fmt.Errorf("read the mappings: %w", err))
	}
	text := []byte(render(d.all(s)))
	if err := replaceFile(d.file, text); err != nil {
		return unavailable("The file of the mappings cannot be written; nothing was changed.", "Check --mapping-file and its disk.", err)
	}
	refused := d.reload(ctx)
	if refused == nil {
		return nil
	}
	// A server that refuses the file keeps what it had; the others must not go on
	// with it, and none may find it at its next start.
	if absent {
		before = []byte(render(nil))
	}
	rest, cancel := rest(ctx, 2*gatherFor)
	defer cancel()
	if err := replaceFile(d.file, before); err != nil {
		return errors.Join(refused, fmt.Errorf("put the file of the mappings back: %w", err))
	}
	if err := d.reload(rest); err != nil {
		return errors.Join(refused, fmt.Errorf("reload the servers with the file as it was: %w", err))
	}
	return refused
}

// reload asks every server to read its configuration anew.
func (d *fileDriver) reload(ctx context.Context) error {
	replies, err := d.accountz(ctx)
	if err != nil {
		return err
	}
	for _, r := range replies {
		id := r.Server.ID
		one, cancel := context.WithTimeout(ctx, readTimeout)
		msg, err := d.sys.RequestWithContext(one, "$SYS.REQ.SERVER."+id+".RELOAD", nil)
		cancel()
		if err != nil {
			return unavailable(fmt.Sprintf("Server %s did not answer the request to reload.", r.Server.Name), "The system user must be allowed to ask $SYS.REQ.SERVER.*.RELOAD.", fmt.Errorf("reload server %s: %w", id, err))
		}
		var a serverReply
		if err := json.Unmarshal(msg.Data, &a); err != nil {
			return fmt.Errorf("parse the answer of server %q to reload: %w", r.Server.Name, err)
		}
		if a.Error != nil {
			return &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Server %s refuses its configuration: %s", r.Server.Name, a.Error.Description), Hint: "The weights before stay in force, and the file is as it was."}
		}
	}
	return nil
}

// replaceFile writes a file as a whole or not at all, with the rights it had.
func replaceFile(file string, data []byte) (err error) {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(tmp.Name()))
		}
	}()
	if _, err = tmp.Write(data); err == nil {
		err = errors.Join(tmp.Chmod(mode), tmp.Sync())
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
