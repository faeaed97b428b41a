package templates

// Topology is the page of the map.
type Topology struct {
	Head      string // one sentence: what there is and whether it is well
	Tone      string
	Map       TopoMap
	URL       string // of the page, to fetch its content anew
	Modes     []Choice
	Splits    []Choice
	Inspector Inspector
	Shares    []TopoSplit // the splits as text
	Servers   TopoServers
	Empty     string // said in place of the map before anything was seen
	Hint      string
}

// TopoMap is the drawing; all numbers are formatted.
type TopoMap struct {
	Box, Hash, Label string
	Mode             string // links, traffic or streams
	Compact          bool
	Detailed         bool
	Clusters         []TopoCluster
	Gateways         []TopoGateway
	Flow             *TopoFlow
}

// TopoCluster is a ring of servers.
type TopoCluster struct {
	ID, Name, URL, Title   string
	X, Y, Radius, Ring     string
	NameY, RateY, CountY   string
	Rate, RateKey          string
	Count                  string
	Bad                    bool // the count is what is wrong
	Tone                   string
	Nodes                  []TopoNode
	Leafs                  []TopoLeaf
	More, MoreX, MoreY     string
	MoreEnd                bool
	Share, ShareR, PillTop string // weight that goes to this cluster, percent; "" for none
	PillX, PillTextY       string
}

// TopoNode is a server; it is drawn around its own origin.
type TopoNode struct {
	ID, URL, Title  string
	At              string // transform
	R               string
	Shape           string // path of its shape when it is not a circle
	Tone            string
	Label           string
	Name, NameY     string // only where there is room
	CPU             string // dash array of the arc, out of 100
	CPUText, CPUKey string
	Meta            string // radius of the ring of the meta leader, "" for the others
	Leads           string // streams led
	LeadsX, LeadsY  string
	Current         bool
	Arcs            []TopoArc
}

// TopoArc is the share of a split's messages that a target at the server gets.
type TopoArc struct{ R, Set, Color, Title string }

// TopoLeaf is a leaf node.
type TopoLeaf struct {
	Path, X, Y, TextX, TextY, Name, Title string
	End                                   bool
}

// TopoGateway links two clusters.
type TopoGateway struct {
	ID, A, B, Path, Width, Tone, Title string
	Label, LabelX, LabelY, RectX       string
	RectY, RectW                       string
}

// TopoFlow is a split drawn beside the map.
type TopoFlow struct {
	Name, URL, Rate, RateKey string
	X, Y, W, H, TextX        string
	NameY, RateY             string
	Lanes                    []TopoLane
}

// TopoLane is a target of the split.
type TopoLane struct {
	ID, Name, Color, Tone, Title string
	In, Out, Width               string
	X, Y, W, H                   string
	TextX, EndX                  string
	NameY, SetY, SeenY           string
	Set, Seen, SeenKey           string
	Rate, RateKey                string
	BarX, SetBarY, SeenBarY      string
	SetW, SeenW, BarW, BarID     string
}

// TopoSplit is a split with its targets, as text.
type TopoSplit struct {
	Name, URL string
	Rows      []TopoShare
}

// TopoShare is a target.
type TopoShare struct {
	Name, Color, State, Host, HostURL  string
	Set, Seen, SeenKey, Rate, RateKey  string
	SetW, SeenW                        string
	Latency, LatencyKey, LatencySource string
}

// Inspector is the detail of one server, or of the whole.
type Inspector struct {
	Title, Tone, State string
	Close              string // URL of the map without it
	Error              string
	Facts              []Fact
	Groups             []FactGroup
	Charts             []ChartView
	Links              []Choice
}

// Fact is a name and a value; Key makes the value live.
type Fact struct{ Name, Value, Key, Title string }

// FactGroup is a headed table.
type FactGroup struct {
	Head string
	Cols []string
	Rows []FactRow
	None string // said when there are no rows
}

// FactRow is a row; URL links its first cell.
type FactRow struct {
	URL   string
	Cells []string
	Tone  string
}

// TopoServers is the map as a table.
type TopoServers struct {
	Query     string
	Keep      []Hidden // what else is in the URL
	CSV, JSON string
	Rows      []TopoServer
	Note      string
}

// TopoServer is a row of the table.
type TopoServer struct {
	ID, Name, URL, Cluster, State, Tone, Version string
	CPU, CPUKey, Mem, MemKey, Conns, ConnsKey    string
	In, InKey, Out, OutKey, RTT, Leads, Uptime   string
	Current                                      bool
}
