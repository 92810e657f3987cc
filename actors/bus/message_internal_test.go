package bus

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// FuzzErrorHeaders sends any error through the headers: code and text arrive, in one bounded line.
func FuzzErrorHeaders(f *testing.F) {
	f.Add(uint16(gfs.CodeExist), "it exists; choose another name")
	f.Add(uint16(0), "")
	f.Add(uint16(65535), " \r\n\x00\xff ")
	f.Add(uint16(4), strings.Repeat("ü", maxDetailBytes))
	f.Fuzz(func(t *testing.T, number uint16, detail string) {
		sent := &gfs.Error{Code: gfs.Code(number), Detail: detail}
		got, ok := (&Message{header: encodeError(sent)}).failure().(*gfs.Error)
		if !ok {
			t.Fatal("no *gfs.Error arrived")
		}
		if got.Code != sent.Code && (sent.Code != gfs.CodeNone || got.Code != gfs.CodeInternal) {
			t.Errorf("code %d became %d", sent.Code, got.Code)
		}
		if !utf8.ValidString(got.Detail) || len(got.Detail) > maxDetailBytes || strings.ContainsAny(got.Detail, "\r\n\x00") {
			t.Errorf("detail %q is no bounded line", got.Detail)
		}
		if oneLine(detail) != got.Detail {
			t.Errorf("detail %q became %q", detail, got.Detail)
		}
	})
}

// FuzzMessage feeds a decoder what a stranger may send: it fails with ErrInvalid or ErrInternal and never panics.
func FuzzMessage(f *testing.F) {
	f.Add("14", "busy", "id", []byte("\x0a\x01x"))
	f.Add("", "", "", []byte("\xff"))
	f.Add("x", "\n", strings.Repeat("i", 100), []byte(nil))
	f.Fuzz(func(t *testing.T, code, detail, id string, data []byte) {
		m := &Message{subject: "s", data: data, header: nats.Header{
			micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {detail}, messages.HeaderRequestID: {id}}}
		if err := m.failure(); (err == nil) != (code == "") {
			t.Errorf("code %q: %v", code, err)
		}
		if len(m.RequestID()) > maxRequestIDBytes {
			t.Errorf("request id of %d bytes", len(m.RequestID()))
		}
		if err := m.Unmarshal(new(wrapperspb.StringValue)); err != nil && gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("protobuf: %v", err)
		}
		var into map[string]any
		if err := m.DecodeJSON(&into); err != nil && gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("JSON: %v", err)
		}
	})
}
