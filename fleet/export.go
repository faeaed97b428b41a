package fleet

import "time"

// ExportQuery asks for the whole course of an entity, however long.
type ExportQuery struct {
	Entity
	Columns []string // none: all that the kind has
	Range
	Step time.Duration // distance of the rows; 0 is the interval of the looks
}

// ExportRow is one step of an export. Where nothing was measured there is no
// row, and a column without a value has N = 0.
type ExportRow struct {
	At     time.Time
	Step   time.Duration // longer than asked for where only coarser figures are kept
	Points []Point       // one per column, in their order; counters as rates per second
}
