// Package clientlib is what applications import.
package clientlib
