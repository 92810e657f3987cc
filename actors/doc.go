// Package actors is the actor kit: the only place that touches the actor library.
package actors
