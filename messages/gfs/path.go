package gfs

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CleanPath checks an absolute path and returns its shortest form ("/a//b/../c" is "/a/c"). Errors are
// CodeInvalid and say which rule was broken.
// Source: our decision, semantics: bad input
func CleanPath(name string) (string, error) {
	switch {
	case name == "":
		return "", Errorf(CodeInvalid, "empty path: want an absolute path such as /dir/file")
	case len(name) > MaxPathBytes:
		return "", Errorf(CodeInvalid, "path of %d bytes: at most %d are allowed", len(name), MaxPathBytes)
	case name[0] != '/':
		return "", Errorf(CodeInvalid, "path %q is not absolute: begin it with /", name)
	}
	clean := path.Clean(name)
	if clean == "/" {
		return clean, nil
	}
	for part := range strings.SplitSeq(clean[1:], "/") {
		if err := CheckName(part); err != nil {
			return "", err
		}
	}
	return clean, nil
}

// CheckName checks one component of a path: 1 to MaxNameBytes bytes of valid UTF-8, no slash, no control
// characters, not "." or "..".
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return Errorf(CodeInvalid, "name %q: want a name other than empty, . and ..", name)
	case len(name) > MaxNameBytes:
		return Errorf(CodeInvalid, "name %.32q… of %d bytes: at most %d are allowed", name, len(name), MaxNameBytes)
	case !utf8.ValidString(name):
		return Errorf(CodeInvalid, "name %q is not valid UTF-8", name)
	case strings.ContainsRune(name, '/') || strings.ContainsFunc(name, unicode.IsControl):
		return Errorf(CodeInvalid, "name %q holds a slash or a control character", name)
	}
	return nil
}
