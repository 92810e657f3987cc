package clientlib

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func TestDialerMakesEveryConnection(t *testing.T) {
	p := newPeers(t, 3)
	var mu sync.Mutex
	dialled := make(map[string]bool)
	c := p.connect(WithDialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialled[address] = true
		mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}))
	mustWrite(t, c, "/file", []byte("data"))
	mu.Lock()
	defer mu.Unlock()
	if !dialled[p.bus.Addr().String()] || !dialled[p.primaryOf("/file", 0).address] {
		t.Errorf("dialled %v", dialled)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opts := range map[string][]Option{
		"cluster": {WithCluster("a.b")}, "timeout": {WithTimeout(0)}, "dialer": {WithDialer(nil)},
	} {
		if _, err := Connect(t.Context(), "nats://127.0.0.1:1", opts...); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := newPeers(t, 1)
	c := p.connect()
	for name, opt := range map[string]CreateOption{"replicas": WithReplicas(9), "mode": WithMode(fs.ModeDir | 0o755)} {
		if _, err := c.Create(t.Context(), "/file", opt); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTLS connects to a NATS server that insists on TLS, with its certificate and without.
func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	bus, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, TLSTimeout: 5,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	bus.Start()
	t.Cleanup(func() { bus.Shutdown(); bus.WaitForShutdown() })
	if !bus.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	url := "nats://" + bus.Addr().String()
	within(t, 10*time.Second, func(ctx context.Context) { // a handshake, not a wait
		_, err := Connect(ctx, url)
		if cause, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			t.Errorf("without the certificate: %v (%v)", err, cause)
		}
	})
	// With it the connection stands, and what is missing is a master: that is waited for to the end.
	within(t, 2*time.Second, func(ctx context.Context) {
		_, err := Connect(ctx, url, WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no master answers") {
			t.Errorf("with the certificate: %v", err)
		}
	})
}
