#![doc = include_str!("lib.md")]

pub mod call;
pub mod client;
pub mod conventions;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod lasting;
pub mod server;

#[doc(inline)]
pub use call::{Call, Ending, Protocol, RequestHead, ResponseHead, ServiceError};
#[doc(inline)]
pub use client::{ClientTrace, ClientTraceLayer};
pub use lasting::Lasting;
#[doc(inline)]
pub use server::{ResponseBody, ResponseFuture, ServerTrace, ServerTraceLayer};
