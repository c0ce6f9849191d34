//! The layout of an `ExportTraceServiceRequest` around spans that are encoded already.
//!
//! Protobuf wants lengths before contents, so a request is laid out first: what stands around the spans is written
//! into a small buffer, and the spans are referred to where they lie. Nothing of a span is copied or read here.

use super::OwnedValue;
use super::encode::put_head;
use super::wire::{len_tag, put_len_field, put_varint, varint_len, varint_tag};
use crate::span::Scope;

/// `ExportTraceServiceRequest.resource_spans`.
const RESOURCE_SPANS: u8 = len_tag(1);
/// `ResourceSpans.resource`.
const RESOURCE: u8 = len_tag(1);
/// `ResourceSpans.scope_spans`.
const SCOPE_SPANS: u8 = len_tag(2);
/// `ScopeSpans.scope`.
const SCOPE: u8 = len_tag(1);
/// `InstrumentationScope.name`.
const SCOPE_NAME: u8 = len_tag(1);
/// `InstrumentationScope.version`.
const SCOPE_VERSION: u8 = len_tag(2);
/// `Resource.attributes`.
const RESOURCE_ATTRIBUTES: u8 = len_tag(1);

/// Spans of one scope that lie one after the other, as fields of `ScopeSpans`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// In which part of the batch.
    pub(crate) part: u32,
    /// The first span's index in the part's chunk.
    pub(crate) from: u32,
    /// One more than the last span's index.
    pub(crate) to: u32,
    /// The bytes of the spans' fields.
    pub(crate) bytes: u32,
}

/// A piece of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A part of [`Layout::heads`].
    Head {
        from: u32,
        to: u32,
    },
    Spans(Run),
}

/// What a request consists of, in order.
#[derive(Debug)]
pub(crate) struct Layout {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    len: usize,
}

struct Group {
    scope: &'static Scope,
    runs: Vec<Run>,
    bytes: usize,
}

impl Piece {
    /// In bytes.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Head { from, to } => (*to - *from) as usize,
            Self::Spans(run) => run.bytes as usize,
        }
    }
}

impl Layout {
    /// Lays out a request of all these runs under one resource, given as [`resource_field`] encodes it.
    pub(crate) fn new(resource: &[u8], runs: impl Iterator<Item = (&'static Scope, Run)>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut latest = 0;
        for (scope, run) in runs {
            if groups.get(latest).is_none_or(|group| !same(group.scope, scope)) {
                latest = groups.iter().position(|group| same(group.scope, scope)).unwrap_or_else(|| {
                    groups.push(Group { scope, runs: Vec::new(), bytes: 0 });
                    groups.len() - 1
                });
            }
            let group = &mut groups[latest];
            group.bytes += run.bytes as usize;
            group.runs.push(run);
        }
        let scopes: Vec<Vec<u8>> = groups.iter().map(|group| scope_field(group.scope)).collect();
        let group_len = |(group, scope): (&Group, &Vec<u8>)| scope.len() + group.bytes;
        let field_len = |content: usize| 1 + varint_len(content as u64) + content;
        let content = resource.len()
            + groups.iter().zip(&scopes).map(|group| field_len(group_len(group))).sum::<usize>();

        let mut layout = Self { heads: Vec::new(), pieces: Vec::new(), len: field_len(content) };
        put_head(&mut layout.heads, RESOURCE_SPANS, content);
        layout.heads.extend_from_slice(resource);
        let mut from = 0;
        for (group, scope) in groups.iter().zip(&scopes) {
            put_head(&mut layout.heads, SCOPE_SPANS, group_len((group, scope)));
            layout.heads.extend_from_slice(scope);
            from = layout.close_head(from);
            layout.pieces.extend(group.runs.iter().copied().map(Piece::Spans));
        }
        if groups.is_empty() {
            layout.close_head(from);
        }
        layout
    }

    fn close_head(&mut self, from: u32) -> u32 {
        // Heads are far below 4 GiB: a resource, and the scopes of a batch.
        let to = self.heads.len() as u32;
        self.pieces.push(Piece::Head { from, to });
        to
    }

    /// The length of the request in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The bytes that [`Piece::Head`] refers to.
    pub(crate) fn heads(&self) -> &[u8] {
        &self.heads
    }
}

/// Two crates may have scopes of the same name; mostly it is the very same one.
fn same(one: &'static Scope, other: &'static Scope) -> bool {
    std::ptr::eq(one, other) || one == other
}

/// A resource as the field of `ResourceSpans`.
pub(crate) fn resource_field<'a>(attributes: impl Iterator<Item = (&'a str, &'a OwnedValue)>) -> Vec<u8> {
    let mut resource = Vec::new();
    for (key, value) in attributes {
        put_key_value(&mut resource, RESOURCE_ATTRIBUTES, key, value);
    }
    let mut field = Vec::with_capacity(resource.len() + 4);
    put_len_field(&mut field, RESOURCE, &resource);
    field
}

fn scope_field(scope: &Scope) -> Vec<u8> {
    let mut content = Vec::new();
    if !scope.name().is_empty() {
        put_len_field(&mut content, SCOPE_NAME, scope.name().as_bytes());
    }
    if !scope.version().is_empty() {
        put_len_field(&mut content, SCOPE_VERSION, scope.version().as_bytes());
    }
    let mut field = Vec::with_capacity(content.len() + 4);
    put_len_field(&mut field, SCOPE, &content);
    field
}

/// A `KeyValue` of an owned value. Done once for a process, so that copying what is nested costs nothing that counts.
fn put_key_value(out: &mut Vec<u8>, tag: u8, key: &str, value: &OwnedValue) {
    let mut pair = Vec::new();
    put_len_field(&mut pair, len_tag(1), key.as_bytes());
    put_len_field(&mut pair, len_tag(2), &any_value(value));
    put_len_field(out, tag, &pair);
}

fn any_value(value: &OwnedValue) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        OwnedValue::String(text) => put_len_field(&mut out, len_tag(1), text.as_bytes()),
        OwnedValue::Bool(truth) => out.extend_from_slice(&[varint_tag(2), u8::from(*truth)]),
        OwnedValue::I64(number) => {
            out.push(varint_tag(3));
            put_varint(&mut out, *number as u64);
        }
        OwnedValue::F64(number) => {
            out.push(super::wire::fixed64_tag(4));
            out.extend_from_slice(&number.to_le_bytes());
        }
        OwnedValue::Array(values) => {
            let mut content = Vec::new();
            values.iter().for_each(|value| put_len_field(&mut content, len_tag(1), &any_value(value)));
            put_len_field(&mut out, len_tag(5), &content);
        }
        OwnedValue::Map(entries) => {
            let mut content = Vec::new();
            entries.iter().for_each(|(key, value)| put_key_value(&mut content, len_tag(1), key, value));
            put_len_field(&mut out, len_tag(6), &content);
        }
        OwnedValue::Bytes(bytes) => put_len_field(&mut out, len_tag(7), bytes),
    }
    out
}
