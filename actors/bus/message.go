package bus

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// maxDetailBytes bounds an error's detail on the wire. A text with a path of gfs.MaxPathBytes is cut: it is for a
// log line.
const maxDetailBytes = 2048

// maxRequestIDBytes bounds the id that a peer may put into our logs.
const maxRequestIDBytes = 64

// Message is what came by NATS. It belongs to whoever got it and is never reused.
type Message struct {
	subject string
	header  nats.Header
	data    []byte
}

// Subject is where the message was sent; a wildcard's place holds what stood there.
func (m *Message) Subject() string { return m.subject }

// RequestID is the id in the message's header, or empty.
func (m *Message) RequestID() string {
	id := m.header.Get(messages.HeaderRequestID)
	return oneLine(id[:min(len(id), maxRequestIDBytes)])
}

// Data is the payload as it came, of any length that the server lets pass.
func (m *Message) Data() []byte { return m.data }

// Unmarshal decodes a protobuf. It fails with ErrInvalid if the payload exceeds gfs.MaxMessageBytes or is none.
func (m *Message) Unmarshal(into proto.Message) error {
	if err := m.checkSize(); err != nil {
		return err
	}
	if err := proto.Unmarshal(m.data, into); err != nil {
		return gfs.Errorf(gfs.CodeInvalid, "%s: %d bytes that are no %s: %v",
			m.subject, len(m.data), into.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// DecodeJSON decodes JSON, with the same bounds and errors as Unmarshal.
func (m *Message) DecodeJSON(into any) error {
	if err := m.checkSize(); err != nil {
		return err
	}
	if err := json.Unmarshal(m.data, into); err != nil {
		return gfs.Errorf(gfs.CodeInvalid, "%s: malformed JSON: %v", m.subject, err)
	}
	return nil
}

func (m *Message) checkSize() error {
	if len(m.data) > gfs.MaxMessageBytes {
		return gfs.Errorf(gfs.CodeInvalid, "%s: %d bytes; a message has at most %d", m.subject, len(m.data),
			gfs.MaxMessageBytes)
	}
	return nil
}

// encode makes the payload of a protobuf and checks its size.
func encode(subject string, message proto.Message) ([]byte, error) {
	data, err := proto.Marshal(message)
	if err != nil {
		return nil, gfs.Errorf(gfs.CodeInvalid, "%s: cannot encode the message: %v", subject, err)
	}
	return data, (&Message{subject: subject, data: data}).checkSize()
}

// encodeError gives the header that an error crosses in. The receiver gets the same code, and the detail but for
// control characters and excess length.
func encodeError(err error) nats.Header {
	code, detail := errorParts(err)
	return nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {detail}}
}

func errorParts(err error) (code, detail string) {
	number := gfs.CodeOf(err)
	detail = err.Error()
	if e, ok := err.(*gfs.Error); ok { // not errors.As: what wraps it says more
		detail = e.Detail
	}
	if number == gfs.CodeNone { // an Error made without a code
		number = gfs.CodeInternal
	}
	return strconv.Itoa(int(number)), oneLine(detail)
}

// oneLine fits text into a header: valid UTF-8 without control characters, of bounded length.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxDetailBytes {
		cut := maxDetailBytes
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	return strings.TrimSpace(text)
}

// failure is the error that the message carries in its header, or nil. A code that is none becomes CodeInternal;
// one that a later version has appended is kept.
func (m *Message) failure() error {
	code := m.header.Get(micro.ErrorCodeHeader)
	if code == "" {
		return nil
	}
	detail := oneLine(m.header.Get(micro.ErrorHeader))
	number, err := strconv.ParseUint(code, 10, 16)
	if err != nil || number == uint64(gfs.CodeNone) {
		return gfs.Errorf(gfs.CodeInternal, "%s: error with code %q: %s", m.subject, oneLine(code), detail)
	}
	return gfs.FromCode(gfs.Code(number), detail)
}

// noResponders reports whether the message is the server's note that nobody subscribes to what was published.
func noResponders(msg *nats.Msg) bool {
	return len(msg.Data) == 0 && msg.Header.Get("Status") == "503"
}
