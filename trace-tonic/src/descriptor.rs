//! The names of methods, read from a `FileDescriptorSet`
//! ([`google/protobuf/descriptor.proto`](https://github.com/protocolbuffers/protobuf/blob/main/src/google/protobuf/descriptor.proto)).
//!
//! Four nested messages and three names of them are of interest, too few for a protobuf library.

use std::fmt;

/// What was given as a `FileDescriptorSet` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorError(());

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an encoded FileDescriptorSet")
    }
}

impl std::error::Error for DescriptorError {}

/// `FileDescriptorSet`.
const FILE: u64 = 1;
/// `FileDescriptorProto`.
const PACKAGE: u64 = 2;
const SERVICE: u64 = 6;
/// `ServiceDescriptorProto` and `MethodDescriptorProto`.
const NAME: u64 = 1;
const METHOD: u64 = 2;

/// Every method, as `package.Service/Method`.
pub(crate) fn methods(set: &[u8]) -> Result<Vec<String>, DescriptorError> {
    let mut methods = Vec::new();
    for file in all(set, FILE)? {
        let package = text(file, PACKAGE)?;
        for service in all(file, SERVICE)? {
            let service_name = text(service, NAME)?;
            for method in all(service, METHOD)? {
                let method = text(method, NAME)?;
                let dot = if package.is_empty() { "" } else { "." };
                methods.push([package, dot, service_name, "/", method].concat());
            }
        }
    }
    Ok(methods)
}

/// The contents of a length-delimited field, each time that it occurs.
fn all(mut message: &[u8], wanted: u64) -> Result<Vec<&[u8]>, DescriptorError> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let len = match tag & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).map_err(|_| DescriptorError(()))?,
            5 => 4,
            _ => return Err(DescriptorError(())),
        };
        let (content, rest) = message.split_at_checked(len).ok_or(DescriptorError(()))?;
        message = rest;
        if tag == wanted << 3 | 2 {
            found.push(content);
        }
    }
    Ok(found)
}

/// The last value of a text field; empty if it is not there.
fn text(message: &[u8], field: u64) -> Result<&str, DescriptorError> {
    let value = all(message, field)?.pop().unwrap_or_default();
    std::str::from_utf8(value).map_err(|_| DescriptorError(()))
}

fn varint(message: &mut &[u8]) -> Result<u64, DescriptorError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().ok_or(DescriptorError(()))?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DescriptorError(()))
}
