//! Client spans for [reqwest]: one for each hop of a redirect and each attempt of a retry.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = trace_reqwest::client();
//! let stock = client.get("http://inventory:8080/items/7").send().await?.text().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every request that goes out is a span of the kind *client*, below the current one, and carries its ids to the server
//! in `traceparent`, together with the trace's `tracestate` and baggage. They replace what the request has of them. The
//! span ends when the head of the response is there; reading the body is not part of it ([HTTP
//! spans](https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client)).
//!
//! # Features
//!
//! This crate turns none of reqwest's features on, TLS included: without one, a call to an `https` URL fails. Each feature
//! here (`rustls`, `http2`, `json`, `query`, `form`, `multipart`, `stream`, `charset`) is reqwest's own of the same name,
//! together with what `reqwest-middleware` has for it.
//!
//! ```toml
//! trace-reqwest = { version = "0.1", features = ["rustls", "json"] }
//! ```
//!
//! # Your own client, retries included
//!
//! [`builder`] takes any [`reqwest::ClientBuilder`], and the middlewares that you use:
//!
//! ```no_run
//! # fn example() -> Result<(), reqwest::Error> {
//! use std::time::Duration;
//!
//! use reqwest_retry::RetryTransientMiddleware;
//! use reqwest_retry::policies::ExponentialBackoff;
//!
//! let policy = ExponentialBackoff::builder().build_with_max_retries(3);
//! let client = trace_reqwest::builder(reqwest::Client::builder().timeout(Duration::from_secs(2)))
//!     .with(RetryTransientMiddleware::new_with_policy(policy))
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! The order matters, and the builder sees to it: redirects outermost, then your middlewares in the order in which they
//! were given, and the spans innermost, so that each of three attempts is a span of its own, and the server's spans lie
//! below the attempt that reached it. A [`TraceMiddleware`] in a stack that you build yourself traces what is called
//! through it: put *around* a retry, instead of inside, it makes one span for all attempts.
//!
//! A call that is made outside of any span starts a trace with each of its attempts. Give it a span to be in
//! ([`trace_core::span`]), and they are siblings in one.
//!
//! # The template of a URL
//!
//! Spans are named by their method alone, because a path may hold anything. A request that comes with the template of its
//! path is named by it too, here `GET /items/{id}`. The template holds for the request and its retries, but not for where the
//! server redirects it to.
//!
//! ```no_run
//! use trace_reqwest::UrlTemplate;
//!
//! # async fn example(client: trace_reqwest::reqwest_middleware::ClientWithMiddleware) -> Result<(), Box<dyn std::error::Error>> {
//! client.get("http://inventory:8080/items/7").with_extension(UrlTemplate("/items/{id}")).send().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a span tells
//!
//! | attribute | |
//! |---|---|
//! | `http.request.method`, `http.request.method_original` | an unknown method is `_OTHER`, with the original beside it |
//! | `server.address`, `server.port` | of the URL; the scheme's default port where it has none |
//! | `url.full` | without fragment; name and password as `REDACTED:REDACTED@`; query values by [`QueryRedaction`] |
//! | `url.template` | where the request has a [`UrlTemplate`], which is then a part of the span's name too |
//! | `http.request.resend_count` | on everything but the first attempt of a call, redirects and retries alike |
//! | `http.response.status_code`, `network.protocol.version` | of the response |
//! | `network.peer.address`, `network.peer.port` | of the connection that the response came by; a proxy's, behind one |
//! | `error.type` | see below |
//!
//! The status is Error, and `error.type` is set, when the response's status is 400 or more (the type is the status), or
//! when there is no response. Then the type is the first of these that applies:
//!
//! | `error.type` | |
//! |---|---|
//! | `timeout` | a timeout of reqwest's, or of the system's while connecting |
//! | `dns` | the name of the server could not be resolved |
//! | `redirect` | there were too many redirects |
//! | `connection_refused`, `connection_reset`… | the name of the [`std::io::ErrorKind`] that lies beneath |
//! | `connect` | there is no connection for another reason, such as a certificate that is not trusted |
//! | `http2_refused_stream`… | an error of HTTP/2, by the name of its [code](https://www.rfc-editor.org/rfc/rfc9113.html#section-7) |
//! | `incomplete_message`, `parse`, `canceled` | the server went away in mid-head, did not speak HTTP, or the connection was closed first |
//! | `body`, `builder` | the body of the request failed, or the request was none |
//! | `panic` | what stands below the spans panicked |
//! | `reqwest::error::Error`, `middleware` | something else |
//!
//! The text of an error is never recorded: reqwest puts the URL into it.
//!
//! When the caller drops the future before the head is there, the span ends without a status: nothing is wrong with the
//! server.
//!
//! # What the stack does not let us see
//!
//! - `network.peer.*` and `network.protocol.version` of a request that got no response: reqwest tells them with the response.
//! - A request that hyper moves to another connection, because the pooled one turned out to be closed before anything was
//!   written to it, is one attempt.
//! - Redirects and retries that a plain [`reqwest::Client`] makes by itself, when [`TraceMiddleware`] is used without the
//!   builder: one span for all hops. With the builder they are made by this crate: see [`Builder`].
//! - A redirect to another origin by a client whose *default headers* hold a secret (`Authorization`, `Cookie`): reqwest
//!   adds them beneath every middleware, and only its own redirects leave them out, so that they are left to it from there on.
//!   The span of the hop that was redirected then covers the rest of the chain.
//!   [`Builder::default_headers`] has no such limit.

#![warn(missing_docs)]

mod builder;
mod error_type;
mod follow;
mod hops;
mod middleware;

pub use builder::{Builder, builder, client};
pub use middleware::TraceMiddleware;
pub use reqwest;
pub use reqwest_middleware;
pub use trace_tower::client::UrlTemplate;
pub use trace_tower::conventions::{KnownMethods, QueryRedaction};
