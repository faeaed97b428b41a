package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// childEnv makes the test binary the process that is killed.
const childEnv = "BALLAST_STORE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := writeUntilKilled(dir, os.Getenv("BALLAST_STORE_FROM")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if dir := os.Getenv(limitEnv); dir != "" {
		if err := limitedChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeUntilKilled puts looks, ACK windows and journal entries as fast as it
// can while Run seals and rolls up, and says each number once it is
// acknowledged.
func writeUntilKilled(dir, from string) error {
	first, err := strconv.Atoi(from)
	if err != nil {
		return err
	}
	ctx := context.Background()
	c := newClock()
	c.add(time.Duration(first) * time.Second)
	db, err := Open(ctx, dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		return err
	}
	go db.Run(ctx)
	for i := first; ; i++ {
		at := c.add(time.Second)
		if err := db.PutSnapshot(ctx, look(at, i)); err != nil {
			return err
		}
		w := fleet.AckWindow{ConsumerKey: eastKey, From: at.Add(-time.Second), To: at, Latency: sketchOf(time.Duration(i))}
		if err := db.PutAcks(ctx, []fleet.AckWindow{w}); err != nil {
			return err
		}
		if i%10 == 0 {
			if _, err := db.Journal().Append(ctx, traffic.Entry{At: at, Kind: traffic.EntryIntent, Text: strconv.Itoa(i)}); err != nil {
				return err
			}
		}
		if _, err := fmt.Println(i); err != nil {
			return err
		}
	}
}

// Killed at any moment, the files are sound and nothing acknowledged is lost.
// BALLAST_STORE_KILLS kills more often.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(19, 20))
	start := newClock().now()
	acked, entries := -1, 0
	for kill := range campaign(t, "BALLAST_STORE_KILLS", 20) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprint("BALLAST_STORE_FROM=", acked+2))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		first := acked + 2 // one may be recorded that was not acknowledged
		stop := first + 20 + rnd.IntN(150)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
			if err != nil {
				t.Fatal(err)
			}
			acked = n
			if n == stop {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if acked < stop {
			t.Fatalf("kill %d: the writer ended by itself at %d", kill, acked)
		}
		for i := first; i <= acked; i++ {
			if i%10 == 0 {
				entries++
			}
		}
		checkAfterKill(t, dir, kill, start, first, acked, &entries)
		if t.Failed() {
			return
		}
	}
}

func checkAfterKill(t *testing.T, dir string, kill int, start time.Time, first, acked int, entries *int) {
	t.Helper()
	c := newClock()
	c.add(time.Duration(acked+1) * time.Second)
	db, err := Open(t.Context(), dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		t.Fatalf("kill %d: Open: %v", kill, err)
	}
	defer db.Close()
	for _, f := range []*file{db.metrics, db.console} {
		var verdict string
		if err := f.r.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			t.Errorf("kill %d: integrity of %s: %s, %v", kill, f.path, verdict, err)
		}
	}
	// The looks of this run, as they were put.
	q := fleet.Range{From: start.Add(time.Duration(first) * time.Second), To: start.Add(time.Duration(acked+2) * time.Second)}
	flying := measured(series(t, db, fleet.KindConsumer, eastKey.Entity().Key, fleet.ColInFlight, q, 5000))
	have := map[int]bool{}
	for _, p := range flying {
		i := int(p.At.Sub(start).Seconds()) - 1
		have[i] = true
		if p.Avg != float64(i) {
			t.Errorf("kill %d: look %d says %v", kill, i, p.Avg)
		}
	}
	for i := first; i <= acked; i++ {
		if !have[i] {
			t.Errorf("kill %d: look %d was acknowledged and is lost", kill, i)
		}
	}
	l, err := db.Latency(t.Context(), eastKey, fleet.Range{From: q.From.Add(-10 * time.Second), To: q.To}, 5000)
	if err != nil || int(l.Total.Count()) < acked-first+1 {
		t.Errorf("kill %d: %d samples, %v, want at least %d", kill, l.Total.Count(), err, acked-first+1)
	}
	if err := db.Journal().Verify(t.Context()); err != nil {
		t.Errorf("kill %d: %v", kill, err)
	}
	n := 0
	if err := db.Journal().Replay(t.Context(), func(traffic.Entry) error { n++; return nil }); err != nil || n < *entries {
		t.Errorf("kill %d: %d journal entries, %v, want at least %d", kill, n, err, *entries)
	}
	*entries = n
}
