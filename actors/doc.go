// Package actors is the actor kit: the only code that touches the actor library, protoactor-go.
//
// An actor is a shell S that runs one command at a time. Spawn starts one and returns a Ref; Send queues a command,
// which is a value with a method Do(S), so that a command for another shell does not compile. There is one Receive
// in the whole tree, here.
//
//	type grant struct {
//		handle gfs.ChunkHandle
//		reply  actors.Reply[gfs.Version]
//	}
//
//	func (c grant) Do(s *leaseShell) { c.reply.Send(s.core.Grant(c.handle, s.clock.Now())) }
//
//	ref := actors.Spawn(system, "lease", &leaseShell{…})
//	version, err := actors.Ask(ctx, ref, func(reply actors.Reply[gfs.Version]) actors.Command[*leaseShell] {
//		return grant{handle, reply}
//	})
//
// # State and invariants
//
// A shell is touched by its actor's turns alone, which never overlap; each turn sees all that the one before wrote.
// A Reply is answered exactly once: twice panics, never is counted by System.Outstanding. Nothing here is durable.
//
// # Order
//
// Commands of one sender to one actor run in the order in which they were sent, in the presence of timers too: a
// timer is a sender of its own. Between senders there is no order. Stop and Shutdown take their place behind the
// commands already queued; what is sent later is dropped, and an Ask whose command was dropped ends at once.
//
// # Failure
//
// A panic in a command is a bug. It is logged with its stack and handed to Config.Crash, which ends the process.
// No actor is ever restarted: it would come back with fresh state, and a lease would be granted twice.
//
// # Limits
//
// Mailboxes are unbounded, because blocking a sender inside an actor could dead-lock two of them. Admission is
// bounded where requests come in, by a Gate, and slow work by Workers.
//
// # What is deliberately not used of the library
//
// RequestFuture and ReenterAfter race with their own timeout, so Ask waits on a channel of its own.
// SetReceiveTimeout touches an actor's state from its timer's goroutine, so After is time.AfterFunc and Send.
// Supervision would restart. Bounded mailboxes make a sender spin. Stash is last in, first out. Everything works
// under testing/synctest.
//
// Package actors/bus is the edge to NATS.
package actors
