package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"ballast/fleet"
)

// column of a kind. All values are stored as int64.
type column struct {
	name    string
	unit    string  // of what is answered: of the rate, for a counter
	scale   float64 // stored = measured * scale
	counter bool
}

// absent is stored where a row has no value for a column: JetStream figures of
// a server without it, a column that is newer than the row.
const absent = math.MinInt64

func gauge(name, unit string) column          { return column{name, unit, 1, false} }
func scaled(name, unit string, by int) column { return column{name, unit, float64(by), false} }
func counter(name, unit string) column        { return column{name, unit, 1, true} }

// kindAck holds the latency sketches of a consumer, under its name. It has no
// columns, and outlives the consumer's re-creation.
const kindAck fleet.Kind = "ack"

var traffic4 = []column{
	counter(fleet.ColInMsgs, "msg/s"), counter(fleet.ColOutMsgs, "msg/s"),
	counter(fleet.ColInBytes, "B/s"), counter(fleet.ColOutBytes, "B/s"),
}

// columnsOf says what is recorded of each kind. The values of a row stand in
// this order; see rows.go. Columns may be added, removed and moved: a blob
// names the list it was written with.
var columnsOf = map[fleet.Kind][]column{
	fleet.KindServer: slices.Concat(traffic4, []column{
		scaled(fleet.ColCPU, "%", 100), gauge(fleet.ColMem, "B"), gauge(fleet.ColConns, ""), gauge(fleet.ColSubs, ""),
		counter(fleet.ColSlow, "/s"), gauge(fleet.ColJSMemory, "B"), gauge(fleet.ColJSStore, "B"), scaled(fleet.ColRTT, "ms", 1000),
		gauge(fleet.ColRoutes, ""), gauge(fleet.ColJSStreams, ""), gauge(fleet.ColJSConsumers, ""), gauge(fleet.ColJSMessages, ""),
		counter(fleet.ColAPI, "/s"), counter(fleet.ColAPIErrors, "/s"), scaled(fleet.ColSkew, "ms", 1000),
	}),
	fleet.KindRoute: slices.Concat(traffic4, []column{scaled(fleet.ColRTT, "ms", 1000), gauge(fleet.ColPending, "B"), gauge(fleet.ColConns, ""),
		gauge(fleet.ColSubs, ""), scaled(fleet.ColUptime, "s", 1000)}),
	fleet.KindGateway: slices.Concat(traffic4, []column{scaled(fleet.ColRTT, "ms", 1000)}),
	fleet.KindLeaf:    slices.Concat(traffic4, []column{scaled(fleet.ColRTT, "ms", 1000), gauge(fleet.ColSubs, "")}),
	fleet.KindAccount: slices.Concat(traffic4, []column{gauge(fleet.ColConns, ""), gauge(fleet.ColSubs, ""), counter(fleet.ColSlow, "/s"), gauge(fleet.ColLeafs, "")}),
	fleet.KindStream: {gauge(fleet.ColMessages, ""), gauge(fleet.ColBytes, "B"), counter(fleet.ColLastSeq, "msg/s"),
		counter(fleet.ColRemoved, "msg/s"), gauge(fleet.ColSubjects, ""), gauge(fleet.ColConsumers, "")},
	fleet.KindConsumer: {
		counter(fleet.ColArrived, "msg/s"), counter(fleet.ColDelivered, "msg/s"), counter(fleet.ColAcked, "msg/s"),
		counter(fleet.ColAckFloor, "msg/s"), gauge(fleet.ColPending, ""), gauge(fleet.ColInFlight, ""),
		gauge(fleet.ColRedelivered, ""), gauge(fleet.ColWaiting, ""),
	},
	fleet.KindWorker: {
		counter(fleet.ColProcessed, "msg/s"), counter(fleet.ColFailed, "msg/s"), gauge(fleet.ColWorkers, ""),
		gauge(fleet.ColProcesses, ""), gauge(fleet.ColInFlight, ""), scaled(fleet.ColCPU, "%", 100), gauge(fleet.ColMem, "B"),
		scaled(fleet.ColProcessing, "ms", 1000),
	},
	fleet.KindWatch: {
		gauge(fleet.ColRequests, ""), gauge(fleet.ColReadBytes, "B"), scaled(fleet.ColTook, "ms", 1000),
		gauge(fleet.ColAnswered, ""), gauge(fleet.ColProblems, ""), scaled(fleet.ColSamples, "/s", 10),
		gauge(fleet.ColBytesFast, "B"), gauge(fleet.ColBytesNormal, "B"), gauge(fleet.ColBytesSlow, "B"),
		scaled(fleet.ColCPUFast, "ms", 1000), scaled(fleet.ColCPUNormal, "ms", 1000), scaled(fleet.ColCPUSlow, "ms", 1000),
		gauge(fleet.ColRequestsFast, ""), gauge(fleet.ColRequestsNormal, ""), gauge(fleet.ColRequestsSlow, ""),
		counter(fleet.ColCounted, "/s"), counter(fleet.ColPassed, "/s"), counter(fleet.ColDropped, "/s"), gauge(fleet.ColQueued, ""),
	},
	fleet.KindMicro: {
		counter(fleet.ColServed, "/s"), counter(fleet.ColErrors, "/s"), counter(fleet.ColServing, "µs/s"),
		gauge(fleet.ColInstances, ""), scaled(fleet.ColCPU, "%", 100), gauge(fleet.ColMem, "B"),
	},
	fleet.KindEndpoint: {counter(fleet.ColServed, "/s"), counter(fleet.ColErrors, "/s"), counter(fleet.ColServing, "µs/s"), gauge(fleet.ColInstances, "")},
	fleet.KindConns:    {gauge(fleet.ColConns, ""), gauge(fleet.ColSubs, ""), gauge(fleet.ColPending, "B")},
	fleet.KindClients:  {gauge(fleet.ColConns, "")},
}

// derived columns are, as a rule, sums of others: then nothing is stored of them
// but that.
var derived = map[fleet.Kind]map[int][]term{
	// Mostly nothing but the oldest messages is removed.
	fleet.KindStream: {removed: {{lastSeq, 1}, {messages, -1}}},
	fleet.KindConsumer: {
		arrived: {{delivered, 1}, {pending, 1}},
		acked:   {{delivered, 1}, {inFlight, -1}},
	},
}

type term struct{ col, sign int }

// Positions in a row, for the few places that compute with them.
const (
	inMsgs, outMsgs, inBytes, outBytes = 0, 1, 2, 3
	messages, lastSeq, removed         = 0, 2, 3
	arrived, delivered, acked          = 0, 1, 2
	pending, inFlight, redelivered     = 4, 5, 6
)

func findColumn(kind fleet.Kind, name string) (column, error) {
	cols, ok := columnsOf[kind]
	if !ok {
		return column{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There are no series of kind %q", kind)}
	}
	for _, c := range cols {
		if c.name == name {
			return c, nil
		}
	}
	return column{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("A %s has no series %q", kind, name)}
}

// layouts knows the column lists by number; it is filled once, when the
// database is opened.
type layouts struct {
	names map[int64][]string
	kinds map[int64]fleet.Kind
	now   map[fleet.Kind]int64 // the list this program writes
}

// loadLayouts reads the lists and adds those that this program writes.
func loadLayouts(ctx context.Context, db *sql.DB) (layouts, error) {
	l := layouts{map[int64][]string{}, map[int64]fleet.Kind{}, map[fleet.Kind]int64{}}
	err := inTx(ctx, db, func(tx *sql.Tx) error {
		for kind, cols := range columnsOf {
			names := make([]string, len(cols))
			for i, c := range cols {
				names[i] = c.name
			}
			text, err := json.Marshal(names)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO layout(kind, cols) VALUES (?, ?) ON CONFLICT DO NOTHING", kind, string(text)); err != nil {
				return err
			}
			var id int64
			if err := tx.QueryRowContext(ctx, "SELECT id FROM layout WHERE kind = ? AND cols = ?", kind, string(text)).Scan(&id); err != nil {
				return err
			}
			l.now[kind] = id
		}
		rows, err := tx.QueryContext(ctx, "SELECT id, kind, cols FROM layout")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			var kind fleet.Kind
			var text string
			if err := rows.Scan(&id, &kind, &text); err != nil {
				return err
			}
			var names []string
			if err := json.Unmarshal([]byte(text), &names); err != nil {
				return fmt.Errorf("column list %d: %w", id, err)
			}
			l.names[id], l.kinds[id] = names, kind
		}
		return rows.Err()
	})
	if err != nil {
		return l, fmt.Errorf("read column lists: %w", err)
	}
	return l, nil
}

var errLayout = errors.New("a blob names a column list that is not there")

// find returns the position of each named column in the list, -1 where it has
// none, and the list's length.
func (l layouts) find(id int64, cols []column) ([]int, int, error) {
	names, ok := l.names[id]
	if !ok {
		return nil, 0, errLayout
	}
	at := make([]int, len(cols))
	for i, c := range cols {
		at[i] = slices.Index(names, c.name)
	}
	return at, len(names), nil
}
