package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"ballast/demo/bed"
	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/store"
)

// What real traffic takes on the disk: the console records a bed, then what it
// recorded is measured by table and kind.
func TestRealTrafficCompresses(t *testing.T) {
	// A few looks at a small bed: the command itself stays in order.
	size, rate, span := bed.Small, 100., 12*time.Second
	if os.Getenv(measureVariable) == "compression" {
		size, rate, span = bed.Large, 500, 31*time.Minute
	}
	w := newWatching(t, size, rate)
	console, url := w.console()
	w.complete(url)
	recorded := w.block(span, nil)
	written := writtenBy(t, console.cmd.Process.Pid)
	peak := peakOf(t, console.cmd.Process.Pid)
	w.end(console)

	all, table := measureRecorded(t, w.data)
	t.Logf("bed: %d streams, %d consumers, %d connections, %g messages/s; recorded for %s every %s\n%s"+
		"the console: %.3f B written a sample, its start included; %.1f %% of a core; %.0f MB at its peak",
		w.bed.Streams, w.bed.Consumers, w.bed.Connections, rate, recorded.span.Round(time.Second), watchInterval, table,
		float64(written)/float64(samplesOf(all)), recorded.consoleShare(), peak)
	for _, kind := range []fleet.Kind{fleet.KindServer, fleet.KindStream, fleet.KindConsumer} {
		i := slices.IndexFunc(all, func(c store.Compression) bool { return c.Table == "raw" && c.Kind == kind })
		if i < 0 || all[i].Values == 0 {
			t.Errorf("nothing was recorded of kind %s", kind)
		}
	}
}

// measureRecorded seals what a console recorded and measures it.
func measureRecorded(t *testing.T, dir string) (all []store.Compression, table string) {
	t.Helper()
	db, now := openLater(t, dir)
	// The slot that was open is sealed by a look after it, and by others the
	// hours that it began in.
	for _, later := range []time.Duration{0, 10 * time.Minute, 7 * time.Hour, 7*time.Hour + 10*time.Minute} {
		at := time.Now().Add(later)
		now.Store(at.UnixNano())
		if err := db.PutSnapshot(t.Context(), fleet.Snapshot{TakenAt: at}); err != nil {
			t.Fatal(err)
		}
	}
	runUntilCleanup(t, "the store's jobs", db.Run)
	// The console's own series is the last of those that were there at first.
	wait.For(t, 5*time.Minute, "the roll-ups of ten minutes", func() bool {
		var err error
		if all, err = db.Compression(t.Context()); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(all, func(c store.Compression) bool { return c.Table == "r2" && c.Kind == fleet.KindWatch })
	})
	sizes, err := db.TableSizes(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "table\tkind\tblobs\tvalues\tbytes\tB a value\t")
	samples := samplesOf(all)
	sum := map[string]int64{}
	for _, c := range all {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%.3f\t\n", c.Table, c.Kind, c.Blobs, c.Values, c.Bytes, float64(c.Bytes)/float64(c.Values))
		sum[c.Table] += c.Bytes
	}
	fmt.Fprintln(tw, "table\tB a sample, blobs\tB a sample, pages of the file\t\t\t\t")
	for _, table := range slices.Sorted(maps.Keys(sizes)) {
		fmt.Fprintf(tw, "%s\t%.3f\t%.3f\t\t\t\t\n", table, float64(sum[table])/float64(samples), float64(sizes[table])/float64(samples))
	}
	if err := tw.Flush(); err != nil {
		t.Fatal(err)
	}
	return all, b.String()
}

// samplesOf are the values that were measured.
func samplesOf(all []store.Compression) (n int64) {
	for _, c := range all {
		if c.Table == "raw" {
			n += c.Values
		}
	}
	return n
}

// openLater opens what a console recorded, with a clock that is set by hand.
func openLater(t *testing.T, dir string) (*store.DB, *atomic.Int64) {
	t.Helper()
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	db, err := store.Open(t.Context(), dir, store.Options{Interval: watchInterval, Now: func() time.Time { return time.Unix(0, now.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, &now
}

// writtenBy is what a process gave the kernel to write; 0 where that is not told.
func writtenBy(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	var n int64
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "write_bytes: "); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}
