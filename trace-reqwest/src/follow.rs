//! What a plain reqwest client does by itself, above the spans: redirects, and requests that a server refused unread.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use http::Extensions;
use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION, REFERER,
    TRANSFER_ENCODING,
};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url, Version, redirect};
use reqwest_middleware::{Error, Middleware, Next, Result};
use trace_core::cold_path;

use crate::error_type::sources;
use crate::hops::Hops;
use crate::middleware::{BoxFuture, Call, SECRET_HEADERS, Sending};
use crate::{TraceMiddleware, UrlTemplate};

/// How often a request that was refused unread is sent again: as often as reqwest does it.
const REFUSALS_MAX: u32 = 2;

/// The outermost middleware.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    /// `None`: redirects are for the caller.
    pub(crate) redirects_max: Option<u32>,
    pub(crate) referer: bool,
    /// Whether reqwest adds secret headers beneath us.
    pub(crate) secret_defaults: bool,
    /// What makes the spans, where nothing stands between it and us: a layer less to box a future for. Then nobody below
    /// but us sends a request again.
    pub(crate) trace: Option<TraceMiddleware>,
}

/// What follows a response.
enum Step {
    Done(Response),
    Hop(Request),
}

impl Follow {
    /// What to do with a redirect: hand it over, or send the request that it asks for.
    fn redirected(
        &self,
        response: Response,
        template: &mut Template,
        extensions: &mut Extensions,
    ) -> Result<Step> {
        let Some(redirects_max) = self.redirects_max else { return Ok(Step::Done(response)) };
        let Some(target) = target(&response) else { return Ok(Step::Done(response)) };
        let crosses = crosses(&target, response.url());
        if crosses && self.secret_defaults {
            // reqwest would have followed it, had the response come from it.
            return Ok(Step::Done(response));
        }
        template.redirect(response.status(), response.url(), target, self.referer);
        if crosses && let Some(Whole { request, .. }) = template.kept.whole(None) {
            SECRET_HEADERS.iter().for_each(|name| drop(request.headers_mut().remove(name)));
        }
        let Some(again) = template.again(None) else { return Ok(Step::Done(response)) };
        let call = self.call(extensions);
        if call.redirects >= redirects_max {
            // reqwest's own error comes first, unless the response is not reqwest's.
            return Err(Error::middleware(TooManyRedirects));
        }
        call.redirects += 1;
        call.crossed |= crosses;
        extensions.remove::<UrlTemplate>();
        Ok(Step::Hop(again))
    }

    /// Starts the span of a hop, if it is made here.
    #[inline(always)]
    fn prepare(&self, request: &mut Request, extensions: &mut Extensions) -> Option<Sending> {
        self.trace.as_ref().map(|trace| trace.prepare(request, extensions))
    }

    fn call<'a>(&self, extensions: &'a mut Extensions) -> &'a mut Call {
        extensions.get_or_insert_with(|| Call { sent: u32::from(self.trace.is_some()), ..Call::default() })
    }

    /// What reqwest has to do with a redirect while this middleware does the rest.
    ///
    /// An error of the kind *redirect* can only be made by reqwest, so it makes it; and it follows by itself where secrets
    /// that it adds have to be left out.
    pub(crate) fn policy(&self) -> redirect::Policy {
        let Some(redirects_max) = self.redirects_max else { return redirect::Policy::none() };
        let secret_defaults = self.secret_defaults;
        redirect::Policy::custom(move |attempt| {
            let hop = Hop::current();
            let followed = attempt.previous().len() - 1;
            let redirects = hop.map_or(0, |hop| hop.redirects as usize) + followed;
            let crosses =
                || attempt.previous().last().is_some_and(|previous| crosses(attempt.url(), previous));
            if redirects >= redirects_max as usize {
                attempt.error(TooManyRedirects)
            } else if hop.is_none() || followed > 0 || secret_defaults && crosses() {
                attempt.follow()
            } else {
                attempt.stop()
            }
        })
    }
}

impl Middleware for Follow {
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
        // Extensions that were used before tell of another call.
        if !extensions.is_empty() {
            cold_path();
            extensions.remove::<Call>();
        }
        let template = Template::of(&mut request, self.trace.is_some());
        // Sent now, where the request lies, and not when it is polled: nothing stands above but `DefaultHeaders`, which passes on
        // at once, and the client, which polls at once.
        let span = self.prepare(&mut request, extensions);
        let hops = Hops::first(span, request, extensions, next);
        Box::pin(Following { follow: self, hops, template, refusals: 0 })
    }
}

/// A call under way, until a hop's response is for the caller.
struct Following<'a> {
    follow: &'a Follow,
    hops: Hops<'a>,
    template: Template,
    refusals: u32,
}

impl Following<'_> {
    /// What follows the end of a hop.
    fn step(&mut self, result: Result<Response>) -> Result<Step> {
        match result {
            Ok(response) => self.follow.redirected(response, &mut self.template, self.hops.extensions()),
            Err(error) => {
                if self.refusals == REFUSALS_MAX || !is_refusal(&error) {
                    return Err(error);
                }
                let Some(again) = self.template.again(url_of(&error)) else { return Err(error) };
                self.refusals += 1;
                self.follow.call(self.hops.extensions());
                Ok(Step::Hop(again))
            }
        }
    }
}

impl Future for Following<'_> {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        loop {
            let poll = self.hops.poll(cx);
            let result = match poll {
                // Nearly always. Returned as it is, because it is some 150 bytes, and what moves them waits for them.
                Poll::Ready(Ok(ref response)) if !is_redirect(response.status()) => return poll,
                Poll::Pending => return poll,
                Poll::Ready(result) => result,
            };
            match self.step(result)? {
                Step::Done(response) => return Poll::Ready(Ok(response)),
                Step::Hop(mut request) => {
                    let span = self.follow.prepare(&mut request, self.hops.extensions());
                    self.hops.then(span, request);
                }
            }
        }
    }
}

/// Which hop of a call reqwest works on, for the [policy](Follow::policy) that it calls while it is polled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    /// How many redirects led to it.
    pub(crate) redirects: u32,
}

/// Ends what [`Hop::enter`] began.
pub(crate) struct Entered(Option<Hop>);

thread_local! {
    static HOP: Cell<Option<Hop>> = const { Cell::new(None) };
}

impl Hop {
    pub(crate) fn enter(self) -> Entered {
        Entered(HOP.replace(Some(self)))
    }

    fn current() -> Option<Self> {
        HOP.get()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        HOP.set(self.0);
    }
}

/// What the next request of a call is made from.
struct Template {
    kept: Kept,
    /// Whether the body cannot be sent again, because it is a stream.
    spent: bool,
}

/// As little as a request can be made from, and as small: it is moved with each call.
enum Kept {
    Whole(Box<Whole>),
    /// A request without a body and a timeout. Its URL is that of the response, or of the error: copying it in advance would
    /// be the dearest part of a template, which most calls never need.
    Head {
        method: Method,
        version: Version,
        /// None if there are none.
        headers: Option<Box<HeaderMap>>,
    },
}

struct Whole {
    request: Request,
    /// The time that the whole call may take, if the request has a limit of its own.
    deadline: Option<(Instant, Duration)>,
}

impl Template {
    /// A template of a request, whose response, or error, `tells_url`.
    #[inline]
    fn of(request: &mut Request, tells_url: bool) -> Self {
        if request.body().is_some() || request.timeout().is_some() {
            cold_path();
            return Self::of_whole(request);
        }
        let (method, version) = (request.method().clone(), request.version());
        let headers = Some(request.headers()).filter(|headers| !headers.is_empty());
        let headers = headers.map(|headers| Box::new(headers.clone()));
        let mut kept = Kept::Head { method, version, headers };
        if !tells_url {
            cold_path();
            kept.whole(Some(request.url()));
        }
        Self { kept, spent: false }
    }

    #[inline(never)]
    fn of_whole(request: &mut Request) -> Self {
        let deadline = request.timeout().map(|timeout| (Instant::now(), *timeout));
        let (kept, spent) = match request.try_clone() {
            Some(kept) => (kept, false),
            None => {
                let body = request.body_mut().take();
                let kept = request.try_clone().expect("a request without a body can be cloned");
                *request.body_mut() = body;
                (kept, true)
            }
        };
        Self { kept: Kept::Whole(Box::new(Whole { request: kept, deadline })), spent }
    }

    /// The request, if it can be sent again. If its URL is not known so far, it is this one.
    fn again(&mut self, url: Option<&Url>) -> Option<Request> {
        if self.spent {
            return None;
        }
        let Whole { request, deadline } = self.kept.whole(url)?;
        let mut request = request.try_clone()?;
        if let Some((since, timeout)) = deadline {
            *request.timeout_mut() = Some(timeout.saturating_sub(since.elapsed()));
        }
        Some(request)
    }

    /// Turns it into the request that this redirect asks for
    /// ([RFC 9110, section 15.4](https://www.rfc-editor.org/rfc/rfc9110.html#section-15.4)).
    fn redirect(&mut self, status: StatusCode, from: &Url, to: Url, referer: bool) {
        let Some(Whole { request, .. }) = self.kept.whole(Some(from)) else { return };
        let method = request.method();
        let as_get = match status {
            // "For historical reasons, a user agent MAY change the request method from POST to GET".
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *method == Method::POST,
            // "retrieval request targeting that URI (a GET or HEAD request if using HTTP)".
            StatusCode::SEE_OTHER => true,
            _ => false,
        };
        if as_get {
            if *method != Method::HEAD {
                *request.method_mut() = Method::GET;
            }
            *request.body_mut() = None;
            self.spent = false;
            for name in [
                CONTENT_ENCODING,
                CONTENT_LANGUAGE,
                CONTENT_LENGTH,
                CONTENT_LOCATION,
                CONTENT_TYPE,
                TRANSFER_ENCODING,
            ] {
                request.headers_mut().remove(name);
            }
        }
        if referer {
            match referer_of(from, &to) {
                Some(value) => drop(request.headers_mut().insert(REFERER, value)),
                None => drop(request.headers_mut().remove(REFERER)),
            }
        }
        *request.url_mut() = to;
    }
}

impl Kept {
    /// The whole request. If its URL is not known so far, it is this one.
    fn whole(&mut self, url: Option<&Url>) -> Option<&mut Whole> {
        if let Self::Head { method, version, headers } = self {
            let mut request = Request::new(method.clone(), url?.clone());
            *request.version_mut() = *version;
            *request.headers_mut() = headers.take().map_or_else(HeaderMap::new, |headers| *headers);
            *self = Self::Whole(Box::new(Whole { request, deadline: None }));
        }
        match self {
            Self::Whole(whole) => Some(whole),
            Self::Head { .. } => None,
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// The host of a response that a middleware made by itself without saying where it is from, as reqwest has it.
const NOBODYS_HOST: &str = "no.url.provided.local";

/// Where a redirect leads to, if it says so, and where it is from.
fn target(response: &Response) -> Option<Url> {
    if response.url().host_str() == Some(NOBODYS_HOST) {
        return None;
    }
    let location = std::str::from_utf8(response.headers().get(LOCATION)?.as_bytes()).ok()?;
    response.url().join(location).ok()
}

/// Whether two URLs have different origins ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454.html#section-5)).
fn crosses(to: &Url, from: &Url) -> bool {
    to.host_str() != from.host_str()
        || to.port_or_known_default() != from.port_or_known_default()
        || to.scheme() != from.scheme()
}

/// The page that a redirect came from, without name, password and fragment; nothing, where it would leave an encrypted
/// connection ([RFC 9110, section 10.1.3](https://www.rfc-editor.org/rfc/rfc9110.html#section-10.1.3)).
fn referer_of(from: &Url, to: &Url) -> Option<HeaderValue> {
    if from.scheme() == "https" && to.scheme() == "http" {
        return None;
    }
    let mut referer = from.clone();
    // They fail for URLs that have no host, and then there is neither.
    let _ = referer.set_username("");
    let _ = referer.set_password(None);
    referer.set_fragment(None);
    referer.as_str().parse().ok()
}

/// Whether the server said that it did not begin with the request, so that any request may be sent again
/// ([RFC 9113, section 8.7](https://www.rfc-editor.org/rfc/rfc9113.html#section-8.7)).
fn is_refusal(error: &Error) -> bool {
    sources(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        let reason = error.reason();
        error.is_remote()
            && (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)
                || error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// The URL that an error is about: reqwest's own always tell it.
fn url_of(error: &Error) -> Option<&Url> {
    match error {
        Error::Reqwest(error) => error.url(),
        Error::Middleware(error) => {
            error.chain().find_map(|cause| cause.downcast_ref::<reqwest::Error>()?.url())
        }
    }
}

/// The limit of redirects was reached.
#[derive(Clone, Copy, Debug)]
struct TooManyRedirects;

impl fmt::Display for TooManyRedirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many redirects")
    }
}

impl std::error::Error for TooManyRedirects {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_has_the_time_that_is_left() {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut request = Request::new(Method::GET, "http://shop.example/".parse().unwrap());
        *request.timeout_mut() = Some(HOUR);
        let mut template = Template::of(&mut request, true);
        let since = Instant::now();
        while since.elapsed().is_zero() {
            std::hint::spin_loop();
        }
        let again = template.again(None).unwrap();
        assert!(again.timeout().is_some_and(|left| *left < HOUR));
        assert_eq!(request.timeout(), Some(&HOUR));
    }

    #[test]
    fn no_page_that_was_encrypted_is_told_to_one_that_is_not() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (from, to, referer) in [
            ("https://a.example/b?c#d", "https://e.example/", Some("https://a.example/b?c")),
            ("http://a.example/b", "https://e.example/", Some("http://a.example/b")),
            ("http://me:pw@a.example/b", "http://e.example/", Some("http://a.example/b")),
            ("https://a.example/b", "http://a.example/", None),
        ] {
            let told = referer_of(&url(from), &url(to));
            assert_eq!(told.as_ref().map(|told| told.to_str().unwrap()), referer);
        }
        // What an earlier hop told is taken back.
        let mut request = Request::new(Method::GET, url("https://a.example/"));
        request.headers_mut().insert(REFERER, HeaderValue::from_static("https://a.example/secret"));
        let mut template = Template::of(&mut request, false);
        template.redirect(StatusCode::FOUND, &url("https://a.example/"), url("http://a.example/"), true);
        assert!(!template.again(None).unwrap().headers().contains_key(REFERER));
    }

    #[test]
    fn a_template_has_its_url_from_whoever_knows_it() {
        let url = Url::parse("http://a.example/b").unwrap();
        let mut request = Request::new(Method::PUT, url.clone());
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let mut template = Template::of(&mut request, true);
        assert!(template.again(None).is_none());
        let mut known = Template::of(&mut request, false);
        for again in [template.again(Some(&url)), template.again(None), known.again(None)] {
            let again = again.unwrap();
            assert_eq!((again.method(), again.version()), (&Method::PUT, Version::HTTP_2));
            assert_eq!((again.url(), again.headers()), (&url, request.headers()));
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let crosses = |to: &str| crosses(&to.parse().unwrap(), &"https://a.example/b".parse().unwrap());
        assert!(!crosses("https://a.example:443/c?d"));
        assert!(crosses("http://a.example/b"));
        assert!(crosses("https://a.example:444/b"));
        assert!(crosses("https://b.a.example/b"));
    }
}
