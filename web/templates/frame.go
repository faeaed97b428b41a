// Package templates is the console's markup over view models: plain structs of
// words that are ready to be shown. It computes nothing, formats nothing and
// knows no type of the rooms that measure or decide.
package templates

// From the root: the names of the files stand in the generated code.
//go:generate sh -c "cd ../.. && go tool templ generate"

// Frame is what surrounds every page.
type Frame struct {
	Title   string
	Crumbs  []Crumb
	Nav     []NavGroup
	System  string // what is watched
	Version string
	Who     string // who acts, as the journal will say
	Theme   string // auto, light or dark
	Assets  Assets
	Charts  bool     // the page has live charts and needs their library
	Live    string   // URL of the live stream, "" for a page that does not move
	Build   string   // of the assets; another one in the stream asks for a reload
	Path    string   // of the page, for forms that come back to it
	Range   []Choice // time ranges to pick from; empty for a page without
	Age     Age
	Alerts  []Alert // above every page: bakes that are watched, a freeze
	Demo    bool    // the drawer with the demo's faults is there
	Travel  *Travel // to other moments; nil where that leads nowhere
}

// Travel leads from a page to how it was at other moments.
type Travel struct {
	At, Exact      string // the moment that is shown, "" is now
	Milliseconds   string // the same
	Earlier, Later []Choice
	Now            string // URL of the page as it is now
	Path           string // of the form that goes to any moment
	Keep           []Hidden
	Value          string // of the form's field
}

// Assets are the URLs of what the page loads.
type Assets struct{ CSS, App, HTMX, Plot, Icon, Font string }

// Crumb is one step of the way to the page; URL is "" for the page itself.
type Crumb struct{ Name, URL string }

// NavGroup is a headed part of the navigation.
type NavGroup struct {
	Head  string
	Items []NavItem
}

// NavItem leads to a page.
type NavItem struct {
	Name, URL, Icon string
	Key             string // second key of the g-then-letter jump
	Badge           string
	BadgeKey        string // live key of the badge
	Current         bool
}

// Choice is one of several; URL selects it.
type Choice struct {
	Label, URL string
	Current    bool
}

// Age says how old the figures on the page are.
type Age struct {
	Text  string
	At    string // milliseconds, "" before the first look
	Now   string // the server's clock, milliseconds
	Stale bool
	Limit string // milliseconds after which figures are stale
}

// Alert is a message above the page.
type Alert struct {
	ID    string
	Tone  string // info, ok, warn, crit
	Title string
	Text  string
	Hint  string
	Ends  string // milliseconds: shown as a countdown
	Until string // the same, where no script counts
	Acts  []Act
}

// Act is something that can be done right here: a link, or a form when Post is set.
type Act struct {
	Label, URL string
	Post       bool
	Primary    bool
	Fields     []Hidden
	Reason     bool // asks for a reason
}

// Hidden is a field that is sent along.
type Hidden struct{ Name, Value string }

// Fault is an error page or panel.
type Fault struct {
	Status    int
	Title     string
	Text      string
	Hint      string
	RequestID string
	Back      string
}
