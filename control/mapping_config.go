package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/wholefile"
	"ballast/traffic"
)

// fileDriver writes the mappings of all its splits into a file that the servers'
// configuration includes, and asks each server to read its configuration anew.
type fileDriver struct {
	servers
	file   string // "" when the servers are elsewhere: nothing is written, only looked at
	splits func() ([]traffic.Split, error)
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
	// Splits are all splits that the file holds, as they are in force; an error
	// while they are not all known, since a file without some would stop their
	// mappings.
	Splits func() ([]traffic.Split, error)
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
func (d *fileDriver) all(s traffic.Split) ([]traffic.Split, error) {
	others, err := d.splits()
	if err != nil {
		return nil, err
	}
	out := []traffic.Split{s}
	for _, o := range others {
		if o.Driver == traffic.DriverMappingConfig && o.Name != s.Name {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b traffic.Split) int { return strings.Compare(a.Subject, b.Subject) })
	return out, nil
}

const (
	fileHead = "# Written by Ballast. Include it in the mappings of the account:\n" +
		"#   accounts { APP { mappings { include \"ballast.conf\" } } }\n" +
		"# Changes by hand are lost, but a block of a split that is gone stays until it is taken out here.\n"
	blockMark = ": [ # split "
	blockEnd  = "]"
)

// render is the text of the file. kept are the blocks of splits that are there no
// more: their publishers may still be there, so nothing is taken from them.
func render(splits []traffic.Split, kept []string) string {
	var b strings.Builder
	b.WriteString(fileHead)
	for _, s := range splits {
		b.WriteString(confKey(s.Subject) + blockMark + s.Name + "\n")
		for _, x := range destinations(s) {
			fmt.Fprintf(&b, "  { destination: %s, weight: %d }\n", confQuote(x.Subject), x.Weight)
		}
		b.WriteString(blockEnd + "\n")
	}
	for _, k := range kept {
		b.WriteString(k)
	}
	return b.String()
}

// leftover are the blocks of a file of render whose subjects no split has.
func leftover(file string, splits []traffic.Split) []string {
	var out []string
	block, inside := "", false
	for line := range strings.Lines(file) {
		if key, _, ok := strings.Cut(line, blockMark); ok && !inside {
			inside = !slices.ContainsFunc(splits, func(s traffic.Split) bool { return confKey(s.Subject) == key })
		}
		if !inside {
			continue
		}
		block += line
		if strings.TrimSpace(line) == blockEnd {
			out = append(out, block)
			block, inside = "", false
		}
	}
	return out
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

// refuse refuses what no server takes, and tells what is around the mapping.
func (d *fileDriver) refuse(ctx context.Context, s traffic.Split) (around surroundings, err error) {
	if strings.Contains(s.Subject, `"`) && strings.Contains(s.Subject, "'") {
		return around, invalid("A subject with both kinds of quotes cannot stand in a server's configuration.", "Divide another subject, or use another driver.", map[string]string{"subject": "leave one kind of quotes out"})
	}
	all, err := d.all(s)
	if err != nil {
		return around, err
	}
	for _, o := range all {
		if o.Name != s.Name && o.Subject == s.Subject {
			return around, invalid(fmt.Sprintf("Split %s maps %s already.", o.Name, s.Subject), "One subject has one mapping.", map[string]string{"subject": "another split of this driver divides it"})
		}
	}
	around, err = d.lookAround(ctx)
	if err != nil {
		return around, err
	}
	return around, refuseOverlap(around.mappings, s)
}

// Check implements Driver.
func (d *fileDriver) Check(ctx context.Context, s traffic.Split) ([]string, error) {
	around, err := d.refuse(ctx, s)
	if err != nil {
		return nil, err
	}
	warn := d.warnings(ctx, s, around)
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
	all, err := d.all(s)
	if err != nil {
		return "", nil, err
	}
	var kept []string
	if d.file != "" {
		now, _, err := d.read()
		if err != nil {
			return "", nil, err
		}
		kept = leftover(string(now), all)
	}
	return render(all, kept), commands, nil
}

// Push implements Driver.
func (d *fileDriver) Push(ctx context.Context, s traffic.Split) error {
	if d.file == "" {
		return errElsewhere
	}
	d.pushing.Lock()
	defer d.pushing.Unlock()
	if _, err := d.refuse(ctx, s); err != nil {
		return err
	}
	before, absent, err := d.read()
	if err != nil {
		return err
	}
	all, err := d.all(s)
	if err != nil {
		return err
	}
	text := []byte(render(all, leftover(string(before), all)))
	if err := wholefile.Write(d.file, text, 0o644); err != nil {
		return unavailable("The file of the mappings cannot be written; nothing was changed.", "Check --mapping-file and its disk.", err)
	}
	refused := d.reload(ctx)
	if refused == nil || fleet.KindOf(refused) != fleet.Invalid {
		return refused // who did not answer is asked again; the others follow meanwhile
	}
	// A server that refuses the file keeps what it had; the others must not go on
	// with it, and none may find it at its next start.
	if absent {
		before = []byte(render(nil, nil))
	}
	rest, cancel := rest(ctx, 2*gatherFor)
	defer cancel()
	if err := wholefile.Write(d.file, before, 0o644); err != nil {
		return errors.Join(refused, fmt.Errorf("put the file of the mappings back: %w", err))
	}
	if err := d.reload(rest); err != nil && fleet.KindOf(err) == fleet.Invalid {
		return errors.Join(refused, fmt.Errorf("reload the servers with the file as it was: %w", err))
	}
	return refused
}

// read is the file as it stands, and whether there is none yet.
func (d *fileDriver) read() (text []byte, absent bool, err error) {
	text, err = os.ReadFile(d.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, true, nil
	case err != nil:
		return nil, false, unavailable("The file of the mappings cannot be read.", "Check --mapping-file and the rights of the console's user.", fmt.Errorf("read the mappings: %w", err))
	}
	return text, false, nil
}

// reload asks every server to read its configuration anew. All are asked, also
// when one does not answer; that one refuses comes before that one is silent.
func (d *fileDriver) reload(ctx context.Context) error {
	all, err := d.accountz(ctx)
	if err != nil {
		return err
	}
	var refused, silent error
	for _, a := range all {
		err := d.reloadOne(ctx, a.Server.Name, a.Server.ID)
		switch {
		case err == nil:
		case fleet.KindOf(err) == fleet.Invalid:
			refused = cmp.Or(refused, err)
		default:
			silent = cmp.Or(silent, err)
		}
	}
	return cmp.Or(refused, silent)
}

func (d *fileDriver) reloadOne(ctx context.Context, name, id string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	subject := "$SYS.REQ.SERVER." + id + ".RELOAD"
	msg, err := d.sys.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return unavailable(fmt.Sprintf("Server %s did not answer the request to reload.", name), "The others were asked too, and it is asked again by itself. The system user must be allowed to ask $SYS.REQ.SERVER.*.RELOAD.", fmt.Errorf("reload server %s: %w", id, err))
	}
	r, err := parseReply(msg.Data, subject)
	if err != nil {
		return err
	}
	if r.Error != nil {
		return &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Server %s refuses its configuration: %s", name, r.Error.Description),
			Hint: "The weights before stay in force, and the file is as it was. Does the server start with this configuration (nats-server -t)?"}
	}
	return nil
}

// InForce implements Driver.
func (d *fileDriver) InForce(ctx context.Context, s traffic.Split) ([]traffic.InForce, error) {
	all, err := d.servers.InForce(ctx, s)
	for i := range all {
		if all[i].State == traffic.ForceNone {
			all[i].Text += " Does its configuration include the file, and was it reloaded?"
		}
	}
	return all, err
}
