use super::*;
use crate::conventions::RequestHeaders;

#[test]
fn an_ending_is_an_error_or_it_is_not() {
    let panic: Box<dyn Any + Send> = Box::new("text");
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    let text = BoxError::from("text");
    for (ending, class) in [
        (Ending::Complete, None),
        (Ending::Upgraded, None),
        (Ending::BodyError(&error), Some("broken_pipe")),
        (Ending::BodyError(&*text), Some("body_error")),
        (Ending::ServiceError(ServiceError::new(&error)), Some("broken_pipe")),
        (Ending::ServiceError(ServiceError::new(&text)), Some("service_error")),
        (Ending::ServiceError(ServiceError::new(&7_u8)), Some("u8")),
        (Ending::Cancelled, Some("cancelled")),
        (Ending::Panicked(Some(&*panic)), Some("panic")),
    ] {
        assert_eq!(ending.error_type().as_deref(), class, "{ending:?}");
    }
}

#[test]
fn the_error_of_a_service_can_be_looked_at() {
    let boxed = BoxError::from("text");
    let error = ServiceError::new(&boxed);
    assert_eq!(error.as_error().map(ToString::to_string).as_deref(), Some("text"));
    assert!(error.downcast_ref::<BoxError>().is_some());
    assert!(ServiceError::new(&7_u8).as_error().is_none());
    assert_eq!(ServiceError::new(&7_u8).downcast_ref(), Some(&7_u8));
    assert_eq!(ServiceError::new(&7_u8).type_name(), "u8");
}

#[test]
fn heads_are_shown_without_what_their_headers_and_their_query_say() {
    let request = Request::get("http://me:pw@shop.example/orders?token=secret")
        .header("authorization", "Bearer secret")
        .header("baggage", "token=secret")
        .header("cookie", "id=secret")
        .body(())
        .unwrap();
    let response = Response::builder().header("set-cookie", "id=secret").body(()).unwrap();
    let headers = RequestHeaders::new(request.headers());
    let shown =
        [format!("{:?}", RequestHead::from(&request)), format!("{:?}", ResponseHead::from(&response))];
    assert!(shown[0].contains("shop.example/orders?token=REDACTED"), "{shown:?}");
    for shown in shown.into_iter().chain([format!("{headers:?}")]) {
        assert!(!shown.contains("secret") && !shown.contains("pw"), "{shown}");
    }
}
