// Package master is the acting master and its standbys.
package master
