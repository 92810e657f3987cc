// Package house holds tests about the code itself: what may import what, what the pure cores may not touch, how files
// and folders are cut and named. Each rule stands in a table with its reason and with code that breaks it, so that a
// rule is known to be able to fail; the same rules then run over the whole tree.
//
// The package has no code outside its tests. They read the sources with go/parser and need neither a build nor the
// network, so they also judge files behind build tags. They see names, not types: a rule that needs types belongs to the linters
// (.golangci.yml).
//
// A rule that stands in the way of something good is changed here, with its reason, in the same commit.
package house
