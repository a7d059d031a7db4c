//! Helpers for the parsers of all families.

use netlink::{Attr, ParseError};

/// Result of parsing a kernel message.
pub(crate) type Parsed<T> = Result<T, ParseError>;

/// Value of an attribute that an answer must have.
pub(crate) fn required<T>(value: Option<T>, kind: u16) -> Parsed<T> {
    value.ok_or(ParseError::Missing { kind })
}

/// Parses a `uint` that fits a `u32`, such as the id of a page pool.
pub(crate) fn small_uint(attr: &Attr<'_>) -> Parsed<u32> {
    let value = attr.uint()?;
    u32::try_from(value).map_err(|_| attr.unexpected(value))
}

/// Defines a structure of optional counters, each with its name and its attribute's number.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $kind:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<u64>,
            )*
        }

        impl $name {
            /// Counters that the kernel reported, by their names in the kernel's specification.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                let all = [$((stringify!($field), self.$field)),*];
                all.into_iter().filter_map(|(name, value)| Some((name, value?)))
            }

            /// Stores `attr` if it is one of the counters.
            fn take(&mut self, attr: &netlink::Attr<'_>) -> crate::parse::Parsed<()> {
                match attr.kind() {
                    $($kind => self.$field = Some(attr.uint()?),)*
                    _ => {}
                }
                Ok(())
            }
        }
    };
}
pub(crate) use counters;

/// Defines the attributes of one set in a module: a constant with each attribute's number, and the
/// table `ALL` with its name and format, for log lines.
macro_rules! attributes {
    (
        $(#[$doc:meta])*
        $vis:vis mod $name:ident {
            $($attr:ident = $number:literal, $format:ident($($arg:expr),+);)*
        }
    ) => {
        $(#[$doc])*
        $vis mod $name {
            #![allow(dead_code, unused_imports)]
            use super::*;

            $(pub(crate) const $attr: u16 = $number;)*

            pub(crate) const ALL: &[netlink::AttrSpec] =
                &[$(netlink::AttrSpec::$format($number, $($arg),+)),*];
        }
    };
}
pub(crate) use attributes;
