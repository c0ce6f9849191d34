//! What does it cost to take the context of a trace out of a request's headers, and to put it into those of another?

use std::hint::black_box;

use fastrace::collector::{SpanContext as FastraceContext, W3CTraceContext};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "propagation",
    question: "What does it cost to take the context of a trace out of the headers of a request, and to put it into those of \
               another? A request that came has four other headers, and one of the three members of its baggage is read. One to be \
               sent has three, and its map is made anew each time: that is the first row, and the others are what they add to it. \
               trace-core always looks for all three headers; opentelemetry_sdk has a propagator for baggage only where there is \
               some, and writes an empty `tracestate` where there is none; the baggage that is put is one that came, of which \
               trace-core keeps the text that was received, and opentelemetry_sdk a map; fastrace keeps `tracestate` without a look \
               into it, and knows no baggage.",
    cases: &[
        Case {
            name: "extract traceparent",
            spans: 1,
            added_to: None,
            entries: &[
                Entry::new(OURS, |collector| extract_ours(collector, Sent::Traceparent)),
                Entry::new(SDK, |_| extract_sdk(Sent::Traceparent)),
                Entry::new(FASTRACE, |_| extract_fastrace(Sent::Traceparent)),
            ],
            ratios: &[Ratio::shown(OURS, SDK), Ratio::shown(OURS, FASTRACE)],
        },
        Case {
            name: "inject traceparent",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare()),
                Entry::new(OURS, |collector| inject_ours(collector, Sent::Traceparent)),
                Entry::new(SDK, |_| inject_sdk(Sent::Traceparent)),
                Entry::new(FASTRACE, |_| inject_fastrace(Sent::Traceparent)),
            ],
            ratios: &[Ratio::shown(OURS, SDK), Ratio::shown(OURS, FASTRACE)],
        },
        Case {
            name: "extract traceparent and tracestate",
            spans: 1,
            added_to: None,
            entries: &[
                Entry::new(OURS, |collector| extract_ours(collector, Sent::Tracestate)),
                Entry::new(SDK, |_| extract_sdk(Sent::Tracestate)),
                Entry::new(FASTRACE, |_| extract_fastrace(Sent::Tracestate)),
            ],
            ratios: &[Ratio::shown(OURS, SDK), Ratio::shown(OURS, FASTRACE)],
        },
        Case {
            name: "inject traceparent and tracestate",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare()),
                Entry::new(OURS, |collector| inject_ours(collector, Sent::Tracestate)),
                Entry::new(SDK, |_| inject_sdk(Sent::Tracestate)),
                Entry::new(FASTRACE, |_| inject_fastrace(Sent::Tracestate)),
            ],
            ratios: &[Ratio::shown(OURS, SDK), Ratio::shown(OURS, FASTRACE)],
        },
        Case {
            name: "extract traceparent, tracestate and baggage",
            spans: 1,
            added_to: None,
            entries: &[
                Entry::new(OURS, |collector| extract_ours(collector, Sent::Baggage)),
                Entry::new(SDK, |_| extract_sdk(Sent::Baggage)),
            ],
            ratios: &[Ratio::new(OURS, SDK, 0.12)],
        },
        Case {
            name: "inject traceparent, tracestate and baggage",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare()),
                Entry::new(OURS, |collector| inject_ours(collector, Sent::Baggage)),
                Entry::new(SDK, |_| inject_sdk(Sent::Baggage)),
            ],
            ratios: &[Ratio::new(OURS, SDK, 0.12)],
        },
    ],
    sections: None,
};

const BARE: &str = "the other headers alone";
const OURS: &str = "trace-core";
const SDK: &str = "opentelemetry_sdk";
const FASTRACE: &str = "fastrace";

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What the sender of a request passes on: what the name says, and what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Traceparent,
    Tracestate,
    Baggage,
}

/// The member of the baggage that is read.
const MEMBER: &str = "tenant.id";

/// The headers of a request as a server has them.
fn received(sent: Sent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("items.example.com:8443"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br"));
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert(TRACEPARENT, HeaderValue::from_static(traceparent));
    if sent >= Sent::Tracestate {
        headers.insert(TRACESTATE, HeaderValue::from_static("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
    }
    if sent >= Sent::Baggage {
        let members = "region=eu-west-1,tenant.id=acme,user.tier=gold";
        headers.insert(BAGGAGE, HeaderValue::from_static(members));
    }
    headers
}

/// The headers of a request as a client has them before it sends it.
fn to_be_sent() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("orders/1.4.2"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// A client's headers, made and dropped.
fn sending(inject: impl Fn(&mut HeaderMap) + Sync + 'static) -> Subject {
    Subject::new(move || {
        let mut headers = to_be_sent();
        inject(black_box(&mut headers));
        drop(black_box(headers));
    })
}

fn bare() -> Subject {
    sending(|_| ())
}

fn extract_ours(collector: &Collector, sent: Sent) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let headers = received(sent);
    Subject::new(move || {
        let context = tracer.propagator().extract(black_box(&headers));
        if sent >= Sent::Baggage {
            black_box(context.baggage().get(MEMBER));
        }
        drop(black_box(context));
    })
}

fn inject_ours(collector: &Collector, sent: Sent) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let context = tracer.propagator().extract(&received(sent));
    sending(move |headers| tracer.propagator().inject(&context, headers))
}

/// The cheapest propagator that passes on all that is sent.
fn sdk(sent: Sent) -> Box<dyn TextMapPropagator + Send + Sync> {
    match sent {
        Sent::Traceparent | Sent::Tracestate => Box::new(TraceContextPropagator::new()),
        Sent::Baggage => Box::new(TextMapCompositePropagator::new(vec![
            Box::new(BaggagePropagator::new()),
            Box::new(TraceContextPropagator::new()),
        ])),
    }
}

fn extract_sdk(sent: Sent) -> Subject {
    let propagator = sdk(sent);
    let headers = received(sent);
    Subject::new(move || {
        let context = propagator.extract(&HeaderExtractor(black_box(&headers)));
        if sent >= Sent::Baggage {
            black_box(context.baggage().get(MEMBER));
        }
        drop(black_box(context));
    })
}

fn inject_sdk(sent: Sent) -> Subject {
    let propagator = sdk(sent);
    let context = propagator.extract(&HeaderExtractor(&received(sent)));
    sending(move |headers| propagator.inject_context(&context, &mut HeaderInjector(headers)))
}

fn extract_fastrace(sent: Sent) -> Subject {
    let headers = received(sent);
    match sent {
        Sent::Traceparent => Subject::new(move || {
            black_box(fastrace(black_box(&headers)));
        }),
        Sent::Tracestate | Sent::Baggage => Subject::new(move || {
            black_box(fastrace_with_tracestate(black_box(&headers)));
        }),
    }
}

/// As the layers of fastrace read headers.
fn fastrace(headers: &HeaderMap) -> Option<FastraceContext> {
    FastraceContext::decode_w3c_traceparent(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// What those layers leave alone, and an application can do.
fn fastrace_with_tracestate(headers: &HeaderMap) -> Option<W3CTraceContext> {
    let traceparent = headers.get(TRACEPARENT)?.to_str().ok()?;
    W3CTraceContext::decode(traceparent, headers.get(TRACESTATE).and_then(|state| state.to_str().ok()))
}

fn inject_fastrace(sent: Sent) -> Subject {
    let context = fastrace_with_tracestate(&received(sent)).expect("it was sent");
    sending(move |headers| put_by_fastrace(&context, headers))
}

fn put_by_fastrace(context: &W3CTraceContext, headers: &mut HeaderMap) {
    if let Ok(traceparent) = HeaderValue::from_str(&context.encode_traceparent()) {
        headers.insert(TRACEPARENT, traceparent);
    }
    if let Some(Ok(tracestate)) = context.encode_tracestate().map(HeaderValue::from_str) {
        headers.insert(TRACESTATE, tracestate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_passes_on_what_was_sent() {
        for sent in [Sent::Traceparent, Sent::Tracestate, Sent::Baggage] {
            let received = received(sent);
            let propagator = trace_core::Propagator::default();
            let mut ours = to_be_sent();
            propagator.inject(&propagator.extract(&received), &mut ours);
            let propagator = sdk(sent);
            let mut theirs = to_be_sent();
            let context = propagator.extract(&HeaderExtractor(&received));
            propagator.inject_context(&context, &mut HeaderInjector(&mut theirs));
            let mut by_fastrace = to_be_sent();
            put_by_fastrace(&fastrace_with_tracestate(&received).unwrap(), &mut by_fastrace);
            assert_eq!(
                fastrace(&received),
                fastrace_with_tracestate(&received).map(|context| context.span_context)
            );
            for headers in [&ours, &theirs, &by_fastrace] {
                assert_eq!(headers.get(TRACEPARENT), received.get(TRACEPARENT));
                let state = headers.get(TRACESTATE).filter(|state| !state.is_empty());
                assert_eq!(state, received.get(TRACESTATE));
            }
            // The SDK's baggage has no order.
            for headers in [&ours, &theirs] {
                assert_eq!(members(headers), members(&received));
            }
        }
    }

    fn members(headers: &HeaderMap) -> Vec<&str> {
        let baggage = headers.get(BAGGAGE).map_or("", |baggage| baggage.to_str().unwrap());
        let mut members: Vec<_> = baggage.split(',').collect();
        members.sort_unstable();
        members
    }
}
