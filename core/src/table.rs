//! Tables that leave the platform: named columns of a type, and values that are exact.

use crate::price::Signed;
use rust_decimal::Decimal;
use std::borrow::Cow;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// True or false.
    Bool,
    /// A whole number from 0 below 2^64.
    Integer,
    /// A whole number from 0 below 2^128.
    Wide,
    /// An exact decimal of 38 digits, so many of them after the point.
    Decimal {
        /// Digits after the point.
        scale: u32,
    },
    /// A moment.
    Time,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether a row may have nothing in it.
    pub nullable: bool,
}

/// What a row has in a column; of the column's kind, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// Of [`Kind::Text`].
    Text(Cow<'a, str>),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Integer`].
    Integer(u64),
    /// Of [`Kind::Wide`].
    Wide(u128),
    /// Of [`Kind::Decimal`], told without zeros at its end.
    Decimal(Signed),
    /// Of [`Kind::Decimal`], told with the digits that it has: money as it is shown.
    Amount(Decimal),
    /// Of [`Kind::Time`]: microseconds since 1970 UTC.
    Time(i64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

/// Nothing becomes [`Value::Null`].
impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
