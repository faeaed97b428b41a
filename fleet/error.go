package fleet

import "errors"

// ErrorKind tells the program what to do about an error.
type ErrorKind int

const (
	Internal    ErrorKind = iota // a defect; its text is logged, never shown
	Invalid                      // what was asked for is wrong; Fields may say where
	NotFound                     //
	Stale                        // it changed since the asker looked
	Unavailable                  // NATS, a quorum or the disk does not serve just now
	Forbidden                    // not allowed: frozen, or the server's permissions refuse it
	Unknown                      // a write that may or may not have happened; a leader read will tell
)

// Error has a kind for the program, words for the operator and a cause for the log.
type Error struct {
	Kind   ErrorKind
	Msg    string            // what happened, one sentence
	Hint   string            // what to do, one sentence
	Fields map[string]string // Invalid: what is wrong, by form field
	Err    error             // cause
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Msg + ": " + e.Err.Error()
	}
	return e.Msg
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's chain, Internal for any other error.
func KindOf(err error) ErrorKind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
