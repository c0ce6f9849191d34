//! What a request's costs are called: from places in the source to a name and a reason.
//!
//! A call belongs to the cost that claims it, or its caller, or that one's caller, and so on, up to code that is not ours. What
//! nobody claims is shown by its function's name: whoever changes the crates sees here what has no name yet.

use super::stack::Frame;

/// A part of what a traced request costs. They stand in the order in which a request comes to them.
pub(crate) struct Cost {
    pub(crate) phase: &'static str,
    pub(crate) name: &'static str,
    /// What it is, and why it has to be.
    pub(crate) reason: &'static str,
    claims: &'static [Claim],
}

/// A place in the source: all that is not empty has to match.
struct Claim {
    /// The beginning of the file's path.
    file: &'static str,
    functions: &'static [&'static str],
    /// A part of the source's line.
    text: &'static [&'static str],
}

const fn file(file: &'static str) -> Claim {
    Claim { file, functions: &[], text: &[] }
}

const fn functions(file: &'static str, functions: &'static [&'static str]) -> Claim {
    Claim { file, functions, text: &[] }
}

const fn lines(file: &'static str, text: &'static [&'static str]) -> Claim {
    Claim { file, functions: &[], text }
}

/// The first one that claims a call has it: what claims whole files stands below what claims parts of them.
pub(crate) const COSTS: &[Cost] = &[
    Cost {
        phase: START,
        name: "headers looked through",
        reason: "One pass finds what propagation and the conventions need: a look-up by name would hash each name.",
        claims: &[functions("trace-tower/src/conventions/headers.rs", &["new", "{closure#0}"])],
    },
    Cost {
        phase: START,
        name: "trace context read",
        reason: "Checks and reads `traceparent`.",
        claims: &[
            file("trace-core/src/propagation/trace_context.rs"),
            file("trace-core/src/id/hex.rs"),
            functions("trace-core/src/id.rs", &["read_ids"]),
        ],
    },
    Cost {
        phase: START,
        name: "caller's context made",
        reason: "What the caller sent, unless a span of this process stands in between: the thread's current one is looked at.",
        claims: &[
            file("trace-core/src/propagation/"),
            file("trace-core/src/context/baggage.rs"),
            functions("trace-tower/src/conventions/mod.rs", &["caller_context"]),
            functions("trace-tower/src/conventions/headers.rs", &["get", "get_all", "lines"]),
        ],
    },
    Cost {
        phase: START,
        name: "options asked",
        reason: "Whether a request is left out, whether answers tell their trace, and which tracer it is.",
        claims: &[
            functions("trace-tower/src/server/http.rs", &["leaves_out"]),
            lines(
                "trace-tower/src/server/http.rs",
                &["options.tracer", "response_headers", "HttpServerCall {", "leaves_out"],
            ),
        ],
    },
    Cost {
        phase: START,
        name: "method and name found",
        reason: "The method, if it is a known one, and the route that the router left are the span's name; they are joined in the span.",
        claims: &[
            file("trace-tower/src/conventions/method.rs"),
            file("trace-core/src/span/name.rs"),
            lines("trace-tower/src/server/http.rs", &["options.methods", "options.route", "SpanName::new"]),
            functions("trace-core/src/span/recorder.rs", &["put_name", "set_name"]),
            functions("trace-tower/src/server/http.rs", &["route"]),
            functions("trace-axum/src/layer.rs", &["route"]),
        ],
    },
    Cost {
        phase: START,
        name: "ids drawn",
        reason: "The span's own id, by the thread's generator.",
        claims: &[
            file("trace-core/src/id.rs"),
            lines("trace-core/src/span/builder.rs", &["SpanId::random", "random_ids"]),
        ],
    },
    Cost {
        phase: START,
        name: "sampler asked",
        reason: "Here a question of the parent's flag.",
        claims: &[
            file("trace-core/src/sampler/"),
            lines("trace-core/src/span/builder.rs", &["should_sample", "SamplingParameters"]),
        ],
    },
    Cost {
        phase: START,
        name: "memory of a span taken",
        reason: "The thread's slot is locked, if it is free, and gives a buffer of its pool; the span is counted as started.",
        claims: &[
            functions("trace-core/src/export/queue.rs", &["start", "start_pooled", "is_under_pressure"]),
            lines("trace-core/src/span/builder.rs", &["queue.start", "is_under_pressure"]),
        ],
    },
    Cost {
        phase: START,
        name: "clock read",
        reason: "The wall clock's anchor, and the processor's counter.",
        claims: &[
            lines(
                "trace-core/src/span/builder.rs",
                &["clock.anchor()", "anchor.ticks()", "clock::unix_nanos"],
            ),
            functions("trace-core/src/clock.rs", &["anchor"]),
        ],
    },
    Cost {
        phase: START,
        name: "span's head written",
        reason: "Ids, parent, kind, start and flags, as the collector gets them.",
        claims: &[functions("trace-core/src/span/recorder.rs", &["start", "measure"])],
    },
    Cost {
        phase: START,
        name: "span made",
        reason: "Where the parent is, what goes into the new context, and the first two references to the span's buffer.",
        claims: &[
            file("trace-core/src/span/builder.rs"),
            functions("trace-core/src/span/cell.rs", &["new"]),
            functions("trace-core/src/span/mod.rs", &["recorded", "inert"]),
            file("trace-core/src/context/kept.rs"),
            lines("trace-tower/src/server/http.rs", &["tracer.span("]),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "`http.request.method`, `http.route`, `url.path`, `user_agent.original`",
        reason: "Whether they are short, and there is room for all, is asked once; then each is written as the collector gets it, behind the one before.",
        claims: &[lines(
            "trace-tower/src/server/http.rs",
            &["set_texts", "method_key", "path_key", "HTTP_ROUTE", "USER_AGENT", "method.original()"],
        )],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "target looked up",
        reason: "As the client sent it, which axum leaves in the request's extensions: a nested router cuts that of the request.",
        claims: &[
            lines("trace-tower/src/server/http.rs", &["self.uri", "uri.path()", "let path ="]),
            functions("trace-tower/src/server/http.rs", &["uri"]),
            functions("trace-axum/src/layer.rs", &["original_uri"]),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "`User-Agent` looked at",
        reason: "The header's bytes are checked for what is no text.",
        claims: &[
            file("trace-tower/src/conventions/text.rs"),
            lines("trace-tower/src/server/http.rs", &["user_agent()"]),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "`url.query`",
        reason: "Its values are kept back: each becomes `REDACTED`.",
        claims: &[
            file("trace-tower/src/conventions/url.rs"),
            lines("trace-tower/src/server/http.rs", &["URL_QUERY", "uri.query()"]),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "`server.*`, `url.scheme`, `network.protocol.version`",
        reason: "`Host`, scheme and version are those of the request before it, and become what these became, which was encoded then.",
        claims: &[
            file("trace-tower/src/conventions/server_address.rs"),
            functions("trace-tower/src/conventions/mod.rs", &["protocol_version"]),
            lines("trace-tower/src/server/http.rs", &["set_served", "self.scheme"]),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "`client.address`, `network.peer.*`",
        reason: "Looked up in the request's extensions, and formatted.",
        claims: &[
            lines("trace-tower/src/server/http.rs", &["set_client", "self.peer"]),
            functions("trace-tower/src/server/http.rs", &["peer"]),
            functions("trace-axum/src/layer.rs", &["peer"]),
            file("trace-core/src/span/ip.rs"),
        ],
    },
    Cost {
        phase: ATTRIBUTES,
        name: "row begun and ended",
        reason: "Whether nobody else looks at the span, where its bytes end, and how many there are now.",
        claims: &[
            functions("trace-tower/src/server/http.rs", &["note"]),
            lines("trace-tower/src/server/http.rs", &["span.attributes()", "options.note"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "layer's service cloned and dropped",
        reason: "axum clones a route's services for each request.",
        claims: &[
            functions("trace-axum/src/service.rs", &["clone"]),
            functions("trace-tower/src/server/service.rs", &["clone"]),
            functions("trace-tower/src/server/http.rs", &["clone"]),
            functions("trace-tower/src/lasting.rs", &["clone"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "span made current, and left",
        reason: "Before and after the service is called, its future polled, and its body polled: the thread points to the span's context. A panic on the way would be noted.",
        claims: &[
            file("trace-core/src/context/current.rs"),
            functions("trace-core/src/span/mod.rs", &["enter"]),
            functions("trace-tower/src/call.rs", &["run", "run_uncaught", "drop"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "span and request moved to the service",
        reason: "The call's state goes into the future that axum will box, and the request into the service.",
        claims: &[
            functions("trace-tower/src/server/future.rs", &["call", "new", "from"]),
            file("trace-tower/src/server/service.rs"),
            file("trace-axum/src/service.rs"),
            functions("trace-axum/src/future.rs", &["new"]),
            functions("trace-tower/src/call.rs", &["new", "call_inside"]),
            functions("trace-tower/src/server/http.rs", &["start_in"]),
            functions("trace-axum/src/layer.rs", &["start"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "body made",
        reason: "A wrapper that notices the body's end, and the box in which axum keeps any body.",
        claims: &[
            functions("trace-axum/src/body.rs", &["of_call"]),
            functions("trace-tower/src/server/body.rs", &["new"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "response's head looked at",
        reason: "Its status becomes an attribute, and it tells whether there is a body to wait for.",
        claims: &[
            functions("trace-tower/src/server/future.rs", &["look_at_head", "ending", "declared_length"]),
            functions("trace-tower/src/server/http.rs", &["head", "put_headers"]),
        ],
    },
    Cost {
        phase: CALL,
        name: "future polled, response moved",
        reason: "The service's future is polled in the span, dropped when it is ready, and its response handed on.",
        claims: &[
            file("trace-tower/src/server/future.rs"),
            file("trace-axum/src/future.rs"),
            functions("trace-tower/src/call.rs", &["poll"]),
        ],
    },
    Cost {
        phase: END,
        name: "body's wrapper dropped",
        reason: "It looks whether its call is still open: then the caller has gone away.",
        claims: &[functions("trace-tower/src/server/body.rs", &["__drop_inner", "drop"])],
    },
    Cost {
        phase: END,
        name: "body polled",
        reason: "One poll has the data, and finds out that there is no more: what is passed on is counted, and the body inside is let go.",
        claims: &[file("trace-tower/src/server/body.rs"), file("trace-axum/src/body.rs")],
    },
    Cost {
        phase: END,
        name: "ending noted",
        reason: "Which ending it is, and whether that is an error.",
        claims: &[
            functions("trace-tower/src/server/http.rs", &["end"]),
            functions("trace-tower/src/call.rs", &["note", "error_type", "end", "abandon"]),
        ],
    },
    Cost {
        phase: END,
        name: "clock read at the end",
        reason: "The processor's counter, as time since the anchor.",
        claims: &[lines("trace-core/src/span/cell.rs", &["anchor.ticks()"])],
    },
    Cost {
        phase: END,
        name: "span's end written",
        reason: "The time of its end; counts and status, where there are any.",
        claims: &[functions("trace-core/src/span/recorder.rs", &["end", "put_counts_and_status"])],
    },
    Cost {
        phase: END,
        name: "bytes handed over, memory given back",
        reason: "Under the lock of the thread's slot: the span's bytes are copied into the open chunk and counted, and its buffer goes back to the pool.",
        claims: &[
            file("trace-core/src/export/queue.rs"),
            file("trace-core/src/export/chunk.rs"),
            file("trace-core/src/export/try_lock.rs"),
        ],
    },
    Cost {
        phase: END,
        name: "references let go",
        reason: "The span's and its context's are the last ones, so that the buffer is taken without a lock.",
        claims: &[
            functions("trace-core/src/span/cell.rs", &["drop", "end", "end_in_place"]),
            lines("trace-core/src/span/cell.rs", &["fetch_sub", "fence(", "recycle_cell"]),
        ],
    },
];

const START: &str = "before the service: the span starts";
const ATTRIBUTES: &str = "the request's attributes";
const CALL: &str = "the service is called and answers";
const END: &str = "the body ends, and the span";

/// Whose work a stack is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// That of a cost, by its place among all.
    Cost(usize),
    /// Ours, and no cost claims it.
    Unnamed(String),
    /// The router's, the handler's or that of whoever calls them: by its function.
    Axum(String),
}

/// Whose work is done by the innermost of these calls, and by how many of them, from the innermost on.
pub(crate) fn owner(frames: &[Frame]) -> (Owner, usize) {
    let ours = frames.iter().take_while(|frame| !is_axum(frame)).enumerate();
    let claimed = |(depth, frame): (usize, &Frame)| {
        let claims = |cost: &Cost| cost.claims.iter().any(|claim| claim.matches(frame));
        Some((Owner::Cost(COSTS.iter().position(claims)?), depth + 1))
    };
    let unnamed = |(depth, frame): (usize, &Frame)| {
        frame.file.starts_with("trace-").then(|| (Owner::Unnamed(function(frame)), depth + 1))
    };
    ours.clone().find_map(claimed).or_else(|| ours.clone().find_map(unnamed)).unwrap_or_else(|| {
        let axum = frames.iter().find(|frame| is_axum(frame));
        (Owner::Axum(axum.map(function).unwrap_or_default()), 0)
    })
}

/// A function's name with its file's, as they are in any version: `axum/routing/route.rs: poll`.
fn function(frame: &Frame) -> String {
    let (package, path) = frame.file.split_once("/src/").unwrap_or(("", &frame.file));
    let is_version = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    let package = match package.rsplit_once('-') {
        Some((name, version)) if is_version(version) => name,
        _ => package,
    };
    format!("{package}/{path}: {}", frame.function)
}

/// Where code begins that would run without us. What is not here is used by both: the standard library, and `http`.
fn is_axum(frame: &Frame) -> bool {
    const PLACES: &[&str] =
        &["axum-", "benches/src/middleware.rs", "futures-util-", "http-body-util-", "matchit-", "tower-"];
    // What makes a body of ours one of axum's.
    let is_boxing = (frame.file.starts_with("axum-core-") || frame.file.starts_with("http-body-util-"))
        && ["new", "{closure#0}", "boxed", "boxed_unsync", "map_err", "try_downcast"]
            .contains(&&*frame.function);
    // What the service leaves behind is dropped by us, because that has to be done inside the span; else by the router.
    let is_left_behind = frame.file.starts_with("trace-tower/src/") && frame.text.contains("inner.set(None)");
    is_left_behind || !is_boxing && PLACES.iter().any(|place| frame.file.starts_with(place))
}

impl Claim {
    fn matches(&self, frame: &Frame) -> bool {
        let any = |wanted: &[&str], matches: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| matches(wanted))
        };
        frame.file.starts_with(self.file)
            && any(self.functions, &|name| frame.function == name)
            && any(self.text, &|part| frame.text.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(file: &str, function: &str, text: &str) -> Frame {
        Frame { file: file.to_owned(), function: function.to_owned(), line: 1, text: text.into() }
    }

    fn name(frames: &[Frame]) -> String {
        match owner(frames).0 {
            Owner::Cost(index) => COSTS[index].name.to_owned(),
            Owner::Unnamed(name) => name,
            Owner::Axum(name) => format!("not ours: {name}"),
        }
    }

    #[test]
    fn a_cost_is_that_of_the_innermost_caller_who_has_a_name() {
        let copy = frame("", "memcpy", "");
        let write = frame("trace-core/src/span/row.rs", "write", "self.bytes(key.as_bytes());");
        let note = |text: &str| frame("trace-tower/src/server/http.rs", "note", text);
        let axum = frame("axum-0.8.9/src/routing/route.rs", "poll", "");
        let query = note("self.query.query(query).set(&mut attributes, semconv::URL_QUERY);");
        let stack = [copy.clone(), write.clone(), query, axum.clone()];
        assert_eq!(name(&stack), "`url.query`");
        assert_eq!(owner(&stack).1, 3);
        assert_eq!(name(&[copy.clone(), write, axum.clone()]), "trace-core/span/row.rs: write");
        // The service that we call is not ours, and neither is what it leaves to be dropped.
        let call = frame("trace-tower/src/server/future.rs", "poll_with", "service.poll(cx);");
        assert_eq!(name(&[copy.clone(), axum.clone(), call]), "not ours: axum/routing/route.rs: poll");
        let left = frame("trace-tower/src/server/future.rs", "{closure#0}", "this.inner.set(None);");
        let dropped = "not ours: trace-tower/server/future.rs: {closure#0}";
        assert_eq!(name(&[copy.clone(), left, axum.clone()]), dropped);
        // A box is whose body is in it.
        let boxed = frame("http-body-util-0.1.5/src/combinators/box_body.rs", "new", "");
        let ours = frame("trace-axum/src/body.rs", "of_call", "Body::new(UnsyncBoxBody::new(watched))");
        assert_eq!(name(&[copy.clone(), boxed.clone(), ours]), "body made");
        assert_eq!(name(&[copy, boxed, axum]), "not ours: axum/routing/route.rs: poll");
    }

    #[test]
    fn the_phases_come_once_each() {
        let mut phases: Vec<_> = COSTS.iter().map(|cost| cost.phase).collect();
        phases.dedup();
        assert_eq!(phases, [START, ATTRIBUTES, CALL, END]);
    }
}
