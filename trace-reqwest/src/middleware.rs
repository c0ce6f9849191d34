//! One client span for everything that goes out through here.

use std::pin::Pin;
use std::task::{self, Poll};

use http::Extensions;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{Middleware, Next, Result};
use trace_core::semconv::{
    HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL, HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE,
    NETWORK_PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT, URL_FULL, URL_TEMPLATE,
};
use trace_core::{Context, Scope, Span, SpanKind, SpanName, Tracer, cold_path};
use trace_tower::client::UrlTemplate;
use trace_tower::conventions::{KnownMethods, QueryRedaction, RedactedUrl, protocol_version};

use crate::error_type::error_type;
use crate::follow::Hop;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// Makes a client span of every request that passes, and sends its context along.
///
/// [`builder`](crate::builder) puts one where it belongs: innermost. See the [crate](crate) for what a span tells.
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use trace_reqwest::TraceMiddleware;
///
/// # fn example() -> reqwest_middleware::ClientWithMiddleware {
/// ClientBuilder::new(reqwest::Client::new()).with(TraceMiddleware::new()).build()
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct TraceMiddleware {
    tracer: Option<Tracer>,
    methods: KnownMethods,
    redaction: QueryRedaction,
    place: Place,
}

/// Where the middleware stands in the stack, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a stack that somebody else built.
    #[default]
    Anywhere,
    /// Below [`Follow`](crate::follow::Follow) and middlewares that may send a request several times.
    Innermost,
    /// Inside [`Follow`](crate::follow::Follow), the only one that sends a request several times.
    Alone,
}

/// What the parts of a stack know of a call, beside its request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// How many attempts were made so far.
    pub(crate) sent: u32,
    /// How many redirects led here.
    pub(crate) redirects: u32,
    /// Whether one of them led to another origin.
    pub(crate) crossed: bool,
}

/// The headers that belong to the origin that a request was made for, as reqwest has it.
pub(crate) static SECRET_HEADERS: [HeaderName; 5] =
    [AUTHORIZATION, COOKIE, HeaderName::from_static("cookie2"), PROXY_AUTHORIZATION, WWW_AUTHENTICATE];

impl TraceMiddleware {
    /// Spans of the global tracer ([`trace_core::init`]), or of that of the context in which a request is made.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the spans with this tracer.
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Which values of a URL's query are left out of `url.full`. Default: all.
    #[must_use]
    pub fn redact_query(mut self, redaction: QueryRedaction) -> Self {
        self.redaction = redaction;
        self
    }

    /// Which methods are known by their names; the others are `_OTHER`. Default: those of the conventions.
    #[must_use]
    pub fn known_methods(mut self, methods: KnownMethods) -> Self {
        self.methods = methods;
        self
    }

    pub(crate) const fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Starts the span that a request is then [sent](Sending::run) in, and tells the request of it.
    ///
    /// The request stays where it is: it is some 260 bytes, and each time they are moved what reads them next waits.
    #[inline(always)]
    pub(crate) fn prepare(&self, request: &mut Request, extensions: &mut Extensions) -> Sending {
        if !matches!(request.url().scheme(), "http" | "https") {
            cold_path();
            // Nothing is sent: reqwest refuses it.
            return Sending { span: Span::unrecorded(Context::current()), hop: None };
        }
        let call = self.count(extensions);
        if call.crossed {
            cold_path();
            // A middleware above may have added them, not knowing that this is a redirect.
            SECRET_HEADERS.iter().for_each(|name| drop(request.headers_mut().remove(name)));
        }
        let template = extensions.get::<UrlTemplate>();
        let method = self.methods.name(request.method());
        let name = SpanName::new(method.in_span_name(), template.map(|template| template.0));
        let builder = match self.tracer {
            Some(tracer) => tracer.span(name),
            None => trace_core::span(name),
        };
        let mut span = builder.kind(SpanKind::Client).scope(&SCOPE).start();
        let context = span.context();
        let tracer = context.tracer().or(self.tracer).unwrap_or_else(trace_core::tracer);
        tracer.propagator().inject(context, request.headers_mut());
        if span.is_recording() {
            self.describe(&mut span, request, call, template);
        }
        let hop = (self.place != Place::Anywhere).then_some(Hop { redirects: call.redirects });
        Sending { span, hop }
    }

    /// Counts the attempt, and returns what was known before it.
    fn count(&self, extensions: &mut Extensions) -> Call {
        match extensions.get_mut::<Call>() {
            Some(call) => {
                let before = *call;
                call.sent += 1;
                before
            }
            None => {
                // Where only redirects send again, they know that there was one attempt.
                if self.place != Place::Alone {
                    extensions.insert(Call { sent: 1, ..Call::default() });
                }
                Call::default()
            }
        }
    }

    fn describe(&self, span: &mut Span, request: &Request, call: Call, template: Option<&UrlTemplate>) {
        let Some(mut attributes) = span.attributes() else { return };
        let method = self.methods.name(request.method());
        let url = request.url();
        let written = url.host_str();
        let is_bare = url.query().is_none()
            && url.fragment().is_none()
            && written.is_some_and(|host| has_no_user_info(url, host));
        let host = written.map(|host| {
            // The brackets around an IPv6 address belong to the URL, not to the address.
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
        });
        match host {
            // Nearly every URL inside a mesh.
            Some(host) if is_bare => {
                attributes.set_texts([
                    (HTTP_REQUEST_METHOD, method.attribute()),
                    (SERVER_ADDRESS, host),
                    (URL_FULL, url.as_str()),
                ]);
            }
            host => {
                cold_path();
                attributes.set(HTTP_REQUEST_METHOD, method.attribute());
                if let Some(host) = host {
                    attributes.set(SERVER_ADDRESS, host);
                }
                redacted(url, &self.redaction).set(&mut attributes, URL_FULL);
            }
        }
        if let Some(original) = method.original() {
            cold_path();
            attributes.set(HTTP_REQUEST_METHOD_ORIGINAL, original);
        }
        if let Some(port) = url.port_or_known_default() {
            attributes.set(SERVER_PORT, port);
        }
        if let Some(UrlTemplate(template)) = template {
            attributes.set(URL_TEMPLATE, *template);
        }
        if call.sent > 0 {
            cold_path();
            attributes.set(HTTP_REQUEST_RESEND_COUNT, call.sent);
        }
    }
}

impl Middleware for TraceMiddleware {
    fn handle<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        mut request: Request,
        extensions: &'life1 mut Extensions,
        next: Next<'life2>,
    ) -> BoxFuture<'async_trait, Result<Response>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let sending = self.prepare(&mut request, extensions);
            sending.run(request, extensions, next).await
        })
    }
}

/// What a request is sent in.
pub(crate) struct Sending {
    span: Span,
    hop: Option<Hop>,
}

impl Sending {
    /// Sends the request.
    // Inlined, so that what it returns is written to where it is kept, and not moved there just after.
    #[inline(always)]
    pub(crate) fn run<'a>(
        self,
        request: Request,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> Attempt<'a> {
        let mut attempt = Attempt { call: None, span: self.span, hop: self.hop, is_at_work: true };
        attempt.call = Some(next.run(request, extensions));
        attempt.is_at_work = false;
        attempt
    }
}

/// A request under way. It ends the span, with what came of it.
pub(crate) struct Attempt<'a> {
    call: Option<BoxFuture<'a, Result<Response>>>,
    span: Span,
    hop: Option<Hop>,
    /// Whether something below is being called; still so when this is dropped if it panicked.
    is_at_work: bool,
}

impl Future for Attempt<'_> {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Self { call, span, hop, is_at_work } = &mut *self;
        let running = call.as_mut().expect("polled after completion").as_mut();
        *is_at_work = true;
        let hop = hop.map(Hop::enter);
        // One value all the way, because a response is some 150 bytes.
        let poll = span.enter(|| running.poll(cx));
        drop(hop);
        if poll.is_ready() {
            span.enter(|| *call = None);
        }
        *is_at_work = false;
        if let Poll::Ready(result) = &poll
            && span.is_recording()
        {
            match result {
                Ok(response) => record_response(span, response),
                Err(error) => {
                    cold_path();
                    span.set_error(&error_type(error));
                }
            }
        }
        poll
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Self { call, span, is_at_work, .. } = self;
        if *is_at_work {
            cold_path();
            span.set_error("panic");
        }
        if call.is_some() {
            cold_path();
            span.enter(|| *call = None);
        }
    }
}

/// A URL as it may leave. Its parts are known, so that they need not be searched for.
#[inline]
fn redacted<'a>(url: &'a Url, redaction: &'a QueryRedaction) -> RedactedUrl<'a> {
    redaction.parts(url.scheme(), url.authority(), url.path(), url.query())
}

/// Whether there is no name and no password between a URL's scheme and its host, which is a part of its text.
#[inline]
fn has_no_user_info(url: &Url, host: &str) -> bool {
    url.as_str().as_ptr().wrapping_add(url.scheme().len() + "://".len()) == host.as_ptr()
}

fn record_response(span: &mut Span, response: &Response) {
    let status = response.status();
    if let Some(mut attributes) = span.attributes() {
        attributes.set(HTTP_RESPONSE_STATUS_CODE, status.as_u16());
        if let Some(version) = protocol_version(response.version()) {
            attributes.set(NETWORK_PROTOCOL_VERSION, version);
        }
        if let Some(peer) = response.remote_addr() {
            attributes.set_peer(&peer);
        }
    }
    if status.as_u16() >= 400 {
        cold_path();
        span.set_error(status.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_before_a_host_or_something_does() {
        let bare = |text: &str| {
            let url = Url::parse(text).unwrap();
            has_no_user_info(&url, url.host_str().unwrap())
        };
        for text in
            ["http://a.example", "https://[::1]:81/b@c", "http://127.0.0.1/?@#@", "http://@a.example/"]
        {
            assert!(bare(text), "{text}");
        }
        for text in [
            "http://me@a.example",
            "http://:pw@a.example/",
            "https://me:pw@[::1]:81/b",
            "http://a@a.example/",
        ] {
            assert!(!bare(text), "{text}");
        }
    }

    #[test]
    fn a_url_leaves_as_the_redaction_has_it() {
        let redaction = QueryRedaction::all_but(["page"]);
        for text in [
            "http://a.example",
            "http://a.example/b",
            "http://a.example/b?k=v&page=2",
            "http://a.example/b?k=v#f",
            "http://a.example/b#f?k=v",
            "http://a.example/b?#",
            "http://a.example?",
            "http://me:pw@a.example:81/b?k=v#f",
            "http://:pw@a.example/b",
            "http://me@[::1]:81/b",
        ] {
            let url = Url::parse(text).unwrap();
            let expected = redaction.url(url.as_str()).to_string();
            assert_eq!(redacted(&url, &redaction).to_string(), expected, "{text}");
        }
    }
}
