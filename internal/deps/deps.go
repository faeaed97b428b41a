package deps

import (
	_ "github.com/a-h/templ"
	_ "github.com/alecthomas/kong"
	_ "github.com/chromedp/chromedp"
	_ "github.com/dustin/go-humanize"
	_ "github.com/klauspost/compress/s2"
	_ "github.com/labstack/echo/v4"
	_ "github.com/labstack/echo/v4/middleware"
	_ "github.com/nats-io/jsm.go/natscontext"
	_ "github.com/nats-io/nats-server/v2/server"
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nats.go/jetstream"
	_ "github.com/nats-io/nuid"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "golang.org/x/net/html"
	_ "golang.org/x/sync/errgroup"
	_ "google.golang.org/protobuf/proto"
	_ "modernc.org/sqlite"
	_ "github.com/shirou/gopsutil/v4/process"
	_ "github.com/goccy/go-yaml"
)
