package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ballast/internal/browser"
	"ballast/internal/ports"
	"ballast/internal/wait"
)

// The test binary is three programs: the tests, ballast itself and a
// nats-server, so that a test can kill a console or a server as a user would.
const runAs = "BALLAST_TEST_RUN_AS"

func TestMain(m *testing.M) {
	switch os.Getenv(runAs) {
	case "ballast":
		main()
	case "nats-server":
		natsServer(os.Args[1:])
	default:
		os.Exit(browser.Main(m))
	}
}

// natsServer is what nats-server's own main does with "-c FILE".
func natsServer(args []string) {
	opts, err := server.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ExitOnError), args, server.PrintServerAndExit, func() {}, server.PrintTLSHelpAndDie)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.ConfigureLogger()
	if err := server.Run(srv); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.WaitForShutdown()
}

// process is a child that runs as one of the programs above.
type process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startProcess(tb testing.TB, program string, env []string, args ...string) *process {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe, args...), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), runAs+"="+program), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", program, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if tb.Failed() {
			tb.Logf("%s %s said:\n%s", program, strings.Join(args, " "), p.out.String())
		}
	})
	return p
}

// end sends a signal and waits for the exit code.
func (p *process) end(tb testing.TB, sig syscall.Signal, timeout time.Duration) int {
	tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		tb.Fatalf("signal: %v", err)
	}
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		tb.Fatalf("still running %v after %v", timeout, sig)
		return -1
	}
}

var consoleURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// url waits until the console has said where it is, and answers.
func (p *process) url(tb testing.TB) string {
	tb.Helper()
	var url string
	wait.For(tb, time.Minute, "the console's address", func() bool {
		url = consoleURL.FindString(p.out.String())
		return url != ""
	})
	wait.For(tb, time.Minute, "the console to answer", func() bool {
		code, _ := tryGet(url + "/healthz")
		return code == http.StatusOK
	})
	return url
}

// withCancel is a context that the test's cleanup may outlive: tb.Context ends
// before cleanups run.
func withCancel(tb testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(tb.Context()))
}

func tryGet(url string) (int, []byte) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}

// get reads a page that must be there.
func get(tb testing.TB, url string) []byte {
	tb.Helper()
	code, body := tryGet(url)
	if code != http.StatusOK {
		tb.Fatalf("GET %s = %d\n%.2000s", url, code, body)
	}
	return body
}

// getJSON reads a page's data.
func getJSON[T any](tb testing.TB, url string) T {
	tb.Helper()
	var v T
	body := get(tb, url)
	if err := json.Unmarshal(body, &v); err != nil {
		tb.Fatalf("GET %s: %v\n%.2000s", url, err, body)
	}
	return v
}

// certificates writes a CA and a server certificate for 127.0.0.1 to dir:
// ca.pem, cert.pem, key.pem.
func certificates(tb testing.TB, dir string) {
	tb.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ballast test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: caDER},
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// freePort is a port that nobody uses just now.
func freePort(tb testing.TB) int {
	tb.Helper()
	free, err := ports.Free(1)
	if err != nil {
		tb.Fatal(err)
	}
	return free[0]
}
