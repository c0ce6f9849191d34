use std::cell::Cell;
use std::collections::VecDeque;
use std::future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower::{Service, service_fn};
use trace_core::{Span, SpanContext, TraceId, Tracer, Traces};

use super::{ResponseBody, ServerTrace};
use crate::call::{BoxError, Call, Ending, Protocol, RequestHead, ResponseHead};

/// A protocol that writes down what it is told.
#[derive(Clone)]
struct Diary {
    tracer: Tracer,
    told: Arc<Mutex<Vec<String>>>,
    records: bool,
    wants_panics: bool,
    /// Whether it panics when it is told of an end.
    explodes: bool,
    span: Option<SpanContext>,
}

impl Diary {
    fn new() -> Self {
        static TRACES: LazyLock<Traces> = LazyLock::new(|| Tracer::builder().build());
        Self {
            tracer: TRACES.tracer(),
            told: Arc::default(),
            records: true,
            wants_panics: false,
            explodes: false,
            span: None,
        }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn tell(&self, what: impl Into<String>) {
        self.told.lock().unwrap().push(what.into());
    }
}

impl Protocol for Diary {
    type Call = Self;

    fn start(&self, _: RequestHead<'_>) -> (Span, Self) {
        let span = self.tracer.span("call").root().start();
        let span = if self.records { span } else { Span::unrecorded(span.context().clone()) };
        let call = Self { span: span.span_context(), ..self.clone() };
        (span, call)
    }
}

impl Call for Diary {
    fn head(&mut self, _: &mut Span, response: ResponseHead<'_>) {
        self.tell(format!("head {}", response.status.as_u16()));
    }

    fn trailers(&mut self, _: &mut Span, trailers: &HeaderMap) {
        self.tell(format!("trailers {}", trailers.len()));
    }

    fn wants_panics(&self) -> bool {
        self.wants_panics
    }

    fn end(&mut self, span: &mut Span, ending: Ending<'_>) {
        assert!(span.is_recording());
        assert_eq!(span.span_context(), self.span, "the span of the call, in its own context");
        let name = match ending {
            Ending::Complete => "complete".to_owned(),
            Ending::Upgraded => "upgraded".to_owned(),
            other => other.error_type().expect("an error").to_string(),
        };
        self.tell(name);
        assert!(!self.explodes, "in the end");
    }
}

/// A body that does what it is told, and notices which trace it is in.
struct Script {
    steps: VecDeque<Step>,
    /// How long it says that it is.
    exact: Option<u64>,
    /// Whether it knows its end when nothing is left.
    knows_its_end: bool,
    traces: Arc<Mutex<Vec<Option<TraceId>>>>,
}

enum Step {
    Data(&'static str),
    Trailers,
    Fail(BoxError),
    Panic,
    Wait,
}
use Step::{Data, Fail, Panic, Trailers, Wait};

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), exact: None, knows_its_end: false, traces: Arc::default() }
    }

    fn knowing_its_end(mut self) -> Self {
        self.knows_its_end = true;
        self
    }

    fn exact(mut self, length: u64) -> Self {
        self.exact = Some(length);
        self
    }
}

fn trace_here() -> Option<TraceId> {
    trace_core::Context::current().span_context().map(|span| span.trace_id())
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.traces.lock().unwrap().push(trace_here());
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(Data(text)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
            Some(Trailers) => {
                let trailers = HeaderMap::from_iter([(::http::header::ETAG, "x".parse().unwrap())]);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Panic) => panic!("in the body"),
            Some(Wait) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.traces.lock().unwrap().push(trace_here());
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

type FrameOf<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

fn poll_body<B: Body>(body: Pin<&mut B>) -> Poll<Option<FrameOf<B>>> {
    body.poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// What a service answers to a request of this method, through the middleware.
fn respond<B>(diary: &Diary, method: Method, response: Response<B>) -> Response<ResponseBody<B, Diary>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let response = Cell::new(Some(response));
    let inner = service_fn(|_: Request<()>| future::ready(Ok::<_, io::Error>(response.take().unwrap())));
    let mut service = ServerTrace::new(inner, diary.clone());
    let request = Request::builder().method(method).body(()).unwrap();
    match poll(pin!(service.call(request))) {
        Poll::Ready(Ok(response)) => response,
        _ => panic!("the service is ready"),
    }
}

/// Reads a body until it is at its end, waits, fails or panics, and drops it.
fn read<B: Body>(body: B) {
    let mut body = pin!(body);
    while !body.is_end_stream() {
        let Poll::Ready(Some(Ok(_))) = poll_body(body.as_mut()) else { return };
    }
}

/// What is told of a `GET` that is answered with this body, which is read.
fn told_of(body: Script) -> Vec<String> {
    let diary = Diary::new();
    read(respond(&diary, Method::GET, Response::new(body)).into_body());
    diary.told()
}

#[test]
fn a_body_ends_the_call_as_complete_in_each_of_its_ways() {
    for (how, body, last) in [
        ("with nothing more", Script::new([Data("a"), Data("b")]), "complete"),
        ("saying so", Script::new([Data("a"), Data("b")]).knowing_its_end(), "complete"),
        ("with trailers", Script::new([Data("a"), Trailers, Wait]), "complete"),
        ("with trailers alone", Script::new([Trailers]), "complete"),
        ("without data", Script::new([]), "complete"),
        ("dropped at its exact size", Script::new([Data("ab"), Data("cd"), Wait]).exact(4), "complete"),
        ("dropped before its exact size", Script::new([Data("ab"), Wait]).exact(4), "cancelled"),
        ("dropped unread", Script::new([Wait]).exact(4), "cancelled"),
        ("dropped, of unknown size", Script::new([Data("ab"), Wait]), "cancelled"),
        ("failed", Script::new([Data("ab"), Fail("text".into())]), "body_error"),
        (
            "failed for the connection",
            Script::new([Fail(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))]),
            "connection_reset",
        ),
    ] {
        let mut told = told_of(body);
        told.retain(|what| !what.starts_with("trailers"));
        assert_eq!(told, ["head 200", last], "{how}");
    }
}

#[test]
fn a_call_ends_with_the_last_frame_and_not_when_the_body_is_dropped() {
    for last in [Data("b"), Trailers] {
        let diary = Diary::new();
        let body = Script::new([Data("a"), last]).knowing_its_end();
        let mut body = pin!(respond(&diary, Method::GET, Response::new(body)).into_body());
        assert!(poll_body(body.as_mut()).is_ready());
        assert_eq!(diary.told(), ["head 200"]);
        assert!(poll_body(body.as_mut()).is_ready());
        assert_eq!(diary.told().last().map(String::as_str), Some("complete"));
        assert!(body.is_end_stream());
    }
}

#[test]
fn trailers_are_told_before_the_end() {
    assert_eq!(told_of(Script::new([Data("a"), Trailers])), ["head 200", "trailers 1", "complete"]);
}

#[test]
fn what_the_body_says_of_itself_goes_before_what_the_head_declares() {
    for (exact, declared, last) in [
        (None, "2", "complete"),
        (None, "3", "cancelled"),
        (None, "nonsense", "cancelled"),
        (Some(2), "3", "complete"),
        (Some(3), "2", "cancelled"),
    ] {
        let diary = Diary::new();
        let body = Script::new([Data("ab"), Wait]);
        let body = match exact {
            Some(exact) => body.exact(exact),
            None => body,
        };
        let response = Response::builder().header("content-length", declared).body(body).unwrap();
        read(respond(&diary, Method::GET, response).into_body());
        assert_eq!(diary.told(), ["head 200", last], "{exact:?} {declared}");
    }
}

#[test]
fn a_response_that_is_only_a_head_is_complete_with_it() {
    for (method, status, ending) in [
        (Method::HEAD, StatusCode::OK, "complete"),
        (Method::GET, StatusCode::NO_CONTENT, "complete"),
        (Method::GET, StatusCode::NOT_MODIFIED, "complete"),
        (Method::GET, StatusCode::EARLY_HINTS, "complete"),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS, "upgraded"),
        (Method::CONNECT, StatusCode::OK, "upgraded"),
    ] {
        let diary = Diary::new();
        let body = Script::new([Wait]);
        let traces = body.traces.clone();
        let response = Response::builder().status(status).body(body).unwrap();
        let response = respond(&diary, method, response);
        assert_eq!(diary.told(), [format!("head {}", status.as_u16()), ending.to_owned()]);
        drop(response);
        assert_eq!(diary.told().len(), 2, "a call ends once");
        assert!(matches!(traces.lock().unwrap()[..], [Some(_)]), "dropped in the trace");
    }
}

#[test]
fn a_connect_that_is_refused_has_a_body() {
    let diary = Diary::new();
    let response = Response::builder().status(407).body(Script::new([Data("a")])).unwrap();
    let response = respond(&diary, Method::CONNECT, response);
    assert_eq!(diary.told(), ["head 407"]);
    read(response.into_body());
    assert_eq!(diary.told(), ["head 407", "complete"]);
}

#[test]
fn a_body_that_is_at_its_end_already_ends_the_call_with_the_head_and_is_not_wrapped() {
    let diary = Diary::new();
    let body = Script::new([]).knowing_its_end();
    let response = respond(&diary, Method::GET, Response::new(body));
    assert_eq!(diary.told(), ["head 200", "complete"]);
    assert!(!response.into_body().is_watched());
}

#[test]
fn a_body_is_over_once_it_is_over() {
    let diary = Diary::new();
    let body = respond(&diary, Method::GET, Response::new(Script::new([Fail("text".into()), Data("a")])));
    let mut body = pin!(body.into_body());
    assert!(matches!(poll_body(body.as_mut()), Poll::Ready(Some(Err(_)))));
    assert!(matches!(poll_body(body.as_mut()), Poll::Ready(None)));
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(diary.told(), ["head 200", "body_error"]);
}

#[test]
fn an_unfinished_body_says_of_itself_what_it_wraps() {
    let diary = Diary::new();
    let body = Script::new([Data("ab")]).exact(2).knowing_its_end();
    let body = respond(&diary, Method::GET, Response::new(body)).into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(body.is_watched(), "its call is not over");
}

#[test]
fn a_future_that_is_dropped_is_cancelled_and_one_that_failed_is_not() {
    let diary = Diary::new();
    let never = service_fn(|_: Request<()>| future::pending::<Result<Response<Script>, io::Error>>());
    let mut service = ServerTrace::new(never, diary.clone());
    {
        let mut call = pin!(service.call(Request::new(())));
        assert!(poll(call.as_mut()).is_pending());
        assert!(diary.told().is_empty());
    }
    assert_eq!(diary.told(), ["cancelled"]);

    let diary = Diary::new();
    drop(ServerTrace::new(never, diary.clone()).call(Request::new(())));
    assert_eq!(diary.told(), ["cancelled"], "one that was never polled too");
}

#[test]
fn the_error_of_a_service_is_told_by_its_kind_or_its_type() {
    #[derive(Debug)]
    struct Own;

    fn told<E: 'static>(error: E) -> Vec<String> {
        let diary = Diary::new();
        let error = Cell::new(Some(error));
        let inner =
            service_fn(|_: Request<()>| future::ready(Err::<Response<Script>, _>(error.take().unwrap())));
        let mut service = ServerTrace::new(inner, diary.clone());
        assert!(matches!(poll(pin!(service.call(Request::new(())))), Poll::Ready(Err(_))));
        diary.told()
    }

    assert_eq!(told(io::Error::from(io::ErrorKind::TimedOut)), ["timed_out"]);
    assert_eq!(told(BoxError::from(io::Error::from(io::ErrorKind::BrokenPipe))), ["broken_pipe"]);
    assert_eq!(told(BoxError::from("text")), ["service_error"]);
    assert_eq!(told(Own), [std::any::type_name::<Own>()]);
}

/// The future of a service that never answers.
type Answer = future::Ready<Result<Response<Script>, io::Error>>;

#[test]
fn a_panic_is_told_and_goes_on() {
    fn panics(f: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err_and(|panic| panic.is::<&'static str>())
    }
    let diary = Diary::new();
    let mut service =
        ServerTrace::new(service_fn(|_: Request<()>| -> Answer { panic!("in the call") }), diary.clone());
    assert!(panics(|| drop(service.call(Request::new(())))));
    assert_eq!(diary.told(), ["panic"]);

    let diary = Diary::new();
    let inner =
        service_fn(async |_: Request<()>| -> Result<Response<Script>, io::Error> { panic!("in the future") });
    let mut service = ServerTrace::new(inner, diary.clone());
    assert!(panics(|| drop(poll(pin!(service.call(Request::new(())))))));
    assert_eq!(diary.told(), ["panic"]);

    let diary = Diary::new();
    let body = Script::new([Data("a"), Panic]);
    let traces = body.traces.clone();
    let body = respond(&diary, Method::GET, Response::new(body)).into_body();
    assert!(panics(|| read(body)));
    assert_eq!(diary.told(), ["head 200", "panic"]);
    assert!(traces.lock().unwrap().iter().all(Option::is_some), "dropped in the trace too");
}

#[test]
fn a_call_that_is_made_in_the_midst_of_a_panic_is_a_call_like_any_other() {
    struct Calls(Diary, bool);
    impl Drop for Calls {
        fn drop(&mut self) {
            if !self.1 {
                return read(
                    respond(&self.0, Method::GET, Response::new(Script::new([Data("a")]))).into_body(),
                );
            }
            let inner = service_fn(|_: Request<()>| -> Answer { panic!("in the call") });
            let mut service = ServerTrace::new(inner, self.0.clone());
            assert!(panics(|| service.call(Request::new(()))));
        }
    }
    for (does_panic, told) in [(false, ["head 200", "complete"].as_slice()), (true, &["panic"])] {
        let diary = Diary::new();
        let calls = Calls(diary.clone(), does_panic);
        assert!(panics(move || {
            let _calls = calls;
            panic!("of somebody else's");
        }));
        assert_eq!(diary.told(), told);
        assert_eq!(trace_here(), None);
    }
}

/// The ways to be told of a panic.
fn diaries() -> [Diary; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(wants_panics, explodes)| Diary {
        wants_panics,
        explodes,
        ..Diary::new()
    })
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// A future, or a guard of one, that panics where it is told to.
struct Bomb {
    in_polls: usize,
    in_drop: bool,
}

impl Future for Bomb {
    type Output = Result<Response<Script>, io::Error>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(left) = self.in_polls.checked_sub(1) {
            self.in_polls = left;
            panic!("in a poll");
        }
        Poll::Ready(Ok(Response::new(Script::new([Data("a"), Wait]))))
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.in_drop, "in a drop");
    }
}

#[test]
fn a_panic_is_told_once_and_meets_no_other_one() {
    for diary in diaries() {
        let bomb = |in_polls, in_drop| {
            let inner = service_fn(move |_: Request<()>| Bomb { in_polls, in_drop });
            ServerTrace::new(inner, diary.clone()).call(Request::new(()))
        };
        let told = || std::mem::take(&mut *diary.told.lock().unwrap());

        let inner = service_fn(|_: Request<()>| -> Answer { panic!("in the call") });
        let mut service = ServerTrace::new(inner, diary.clone());
        assert!(panics(|| service.call(Request::new(()))));
        assert_eq!((told(), trace_here()), (vec!["panic".to_owned()], None));

        // Polled again by somebody who does not mind, until there is an answer.
        let mut call = Box::pin(bomb(2, false));
        assert!(panics(|| poll(call.as_mut())));
        assert_eq!((told(), trace_here()), (vec!["panic".to_owned()], None));
        assert!(panics(|| poll(call.as_mut())));
        let Poll::Ready(Ok(response)) = poll(call.as_mut()) else { panic!("the service is ready") };
        read(response.into_body());
        assert_eq!((told(), trace_here()), (vec!["head 200".to_owned()], None));
        assert!(panics(|| poll(call.as_mut())), "polled after completion");
        drop(call);
        assert_eq!((told(), trace_here()), (vec![], None));

        // The service's future panics when it is dropped: after its answer, after a panic, or before its end.
        let mut call = Box::pin(bomb(0, true));
        assert!(panics(|| poll(call.as_mut())));
        drop(call);
        assert_eq!((told(), trace_here()), (vec!["panic".to_owned()], None));
        let mut call = Box::pin(bomb(1, true));
        assert!(panics(|| poll(call.as_mut())));
        assert!(panics(|| drop(call)));
        assert_eq!((told(), trace_here()), (vec!["panic".to_owned()], None));
        // Two panics at once are nobody's to mend.
        let call = Box::pin(bomb(0, !diary.explodes));
        assert!(panics(|| drop(call)));
        assert_eq!(told(), ["cancelled"]);

        // A body that panics twice, and is read to its end.
        let body = Script::new([Data("a"), Panic, Panic, Data("b")]);
        let mut body = Box::pin(respond(&diary, Method::GET, Response::new(body)).into_body());
        assert!(poll_body(body.as_mut()).is_ready());
        assert!(panics(|| poll_body(body.as_mut())));
        assert!(panics(|| poll_body(body.as_mut())));
        assert!(matches!(poll_body(body.as_mut()), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(poll_body(body.as_mut()), Poll::Ready(None)));
        drop(body);
        assert_eq!((told(), trace_here()), (vec!["head 200".to_owned(), "panic".to_owned()], None));
    }
    // A new span's trace begins here: nobody has left his own.
    assert_eq!(trace_here(), None);
}

/// A body that panics whatever it is asked, once it is broken.
struct Fragile {
    is_broken: Arc<AtomicBool>,
}

impl Body for Fragile {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.is_broken.store(true, Ordering::Relaxed);
        panic!("in a poll");
    }

    fn is_end_stream(&self) -> bool {
        assert!(!self.is_broken.load(Ordering::Relaxed), "in a question");
        false
    }
}

#[test]
fn a_body_is_not_asked_for_its_end_once_that_is_noted_or_in_the_midst_of_a_panic() {
    let body = |diary: &Diary| {
        let is_broken = Arc::<AtomicBool>::default();
        let body = Fragile { is_broken: is_broken.clone() };
        (respond(diary, Method::GET, Response::new(body)).into_body(), is_broken)
    };
    for diary in diaries() {
        let told = || std::mem::take(&mut *diary.told.lock().unwrap());
        let mut caught = Box::pin(body(&diary).0);
        assert!(panics(|| poll_body(caught.as_mut())));
        drop(caught);
        assert_eq!(told(), ["head 200", "panic"]);

        // Another panic would end the process here.
        assert!(panics(|| poll_body(Box::pin(body(&diary).0).as_mut())));
        assert_eq!(told(), ["head 200", "panic"]);
    }
    let diary = Diary::new();
    assert!(panics(|| {
        let (_body, is_broken) = body(&diary);
        is_broken.store(true, Ordering::Relaxed);
        panic!("of somebody else's");
    }));
    assert_eq!(diary.told(), ["head 200", "cancelled"]);
}

#[test]
fn everything_happens_in_the_span_of_the_call() {
    let traces = Arc::new(Mutex::new(Vec::new()));

    struct Guard(Arc<Mutex<Vec<Option<TraceId>>>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(trace_here());
        }
    }

    for records in [true, false] {
        traces.lock().unwrap().clear();
        let diary = Diary { records, ..Diary::new() };
        let inner = service_fn(|_: Request<()>| {
            traces.lock().unwrap().push(trace_here());
            let guard = Guard(traces.clone());
            let traces = traces.clone();
            async move {
                traces.lock().unwrap().push(trace_here());
                let _guard = guard;
                let mut body = Script::new([Data("a"), Data("b")]);
                body.traces = traces.clone();
                Ok::<_, io::Error>(Response::new(body))
            }
        });
        let mut service = ServerTrace::new(inner, diary.clone());
        let Poll::Ready(Ok(response)) = poll(pin!(service.call(Request::new(())))) else {
            panic!("the service is ready");
        };
        assert_eq!(trace_here(), None);
        read(response.into_body());
        assert_eq!(trace_here(), None);

        let seen = traces.lock().unwrap();
        // The call, the future, its guard, three polls of the body, and its drop.
        assert_eq!(seen.len(), 7);
        assert!(seen.iter().all(|trace| trace.is_some() && *trace == seen[0]), "{seen:?}");
        let told = diary.told();
        let expected: &[&str] = if records { &["head 200", "complete"] } else { &[] };
        assert_eq!(told, expected);
    }
}

#[test]
fn a_body_of_known_size_is_not_wrapped_when_nothing_is_recorded() {
    let diary = Diary { records: false, ..Diary::new() };
    let body = respond(&diary, Method::GET, Response::new(Script::new([Data("ab")]).exact(2)));
    assert!(!body.into_body().is_watched());

    let body = respond(&diary, Method::GET, Response::new(Script::new([Data("ab")])));
    assert!(body.into_body().is_watched(), "a stream may go on in the trace");
}
