package templates

// Export is the form for the course of one thing.
type Export struct {
	Name, Kind    string
	URL           string // of its page; "" when it has none
	Path          string
	Columns       string
	Fields        []Hidden
	Ranges, Steps []Option
	Range, Step   string
	Placeholder   string
}
