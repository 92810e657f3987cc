// Package gfs holds the nouns of the system in plain Go: chunk handles, versions, serial numbers, the sizes and
// bounds that every part obeys, and the table of errors that cross process boundaries.
//
// It imports the standard library alone, so that clients, masters and chunkservers share one vocabulary and
// nothing else. It has no behaviour beyond conversions and checks of single values.
//
// Terms are those of the GFS paper (Ghemawat, Gobioff, Leung, SOSP 2003).
package gfs
