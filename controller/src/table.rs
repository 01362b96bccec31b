//! Tables as bytes: CSV, JSON lines or Parquet, written row by row. What is held is one row of text, or one group of
//! Parquet's: nothing grows with the table but a Parquet file's index, by about 6 KB for each group.

mod parquet;
mod text;

pub use parquet::each_decimal;
pub use text::moment;

use ::parquet::errors::ParquetError;
use dormouse_core::price::TooLarge;
use dormouse_core::table::{Column, Value};
use parquet::Groups;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180 with a line of names; nothing is an empty cell.
    Csv,
    /// An object on each line. Decimals are text: a number there is a binary fraction to most readers.
    JsonLines,
    /// Parquet: decimals of 38 digits, moments in microseconds UTC.
    Parquet,
}

/// A row that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A number does not fit its column.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A value is not of its column's kind.
    #[error("column {0} cannot hold a value that is in it")]
    Misfit(&'static str),
    /// Parquet could not be made.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
}

/// Writes one table.
pub struct Writer {
    columns: Vec<Column>,
    form: Form,
}

enum Form {
    Csv(Vec<u8>),
    JsonLines(Vec<u8>),
    Parquet(Box<Groups>),
}

impl Format {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::JsonLines => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Its name where it is chosen by name, and the end of its files' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

impl Writer {
    /// A table with these columns.
    ///
    /// # Errors
    /// When they are no columns of a Parquet file.
    pub fn new(format: Format, columns: Vec<Column>) -> Result<Self, WriteError> {
        let form = match format {
            Format::Csv => Form::Csv(text::head(&columns)),
            Format::JsonLines => Form::JsonLines(Vec::new()),
            Format::Parquet => Form::Parquet(Box::new(Groups::new(&columns)?)),
        };
        Ok(Self { columns, form })
    }

    /// Adds a row: a value for each column, in their order.
    ///
    /// # Errors
    /// When a value does not fit: the table is of no use any more.
    pub fn row<'a>(&mut self, values: impl Iterator<Item = Value<'a>>) -> Result<(), WriteError> {
        match &mut self.form {
            Form::Csv(out) => text::csv_row(out, values),
            Form::JsonLines(out) => text::json_line(out, &self.columns, values),
            Form::Parquet(groups) => groups.row(values)?,
        }
        Ok(())
    }

    /// What is ready to be sent on, which may be nothing. The bytes of all takes and of [`Writer::finish`], one after the
    /// other, are the table.
    ///
    /// # Errors
    /// When Parquet could not be made.
    pub fn take(&mut self) -> Result<Vec<u8>, WriteError> {
        match &mut self.form {
            Form::Csv(out) | Form::JsonLines(out) => Ok(std::mem::take(out)),
            Form::Parquet(groups) => groups.take(),
        }
    }

    /// The end of the table. `notes` are told about it where there is room: as a Parquet file's key-value metadata.
    ///
    /// # Errors
    /// When Parquet could not be made.
    pub fn finish(self, notes: &[(&str, String)]) -> Result<Vec<u8>, WriteError> {
        match self.form {
            Form::Csv(out) | Form::JsonLines(out) => Ok(out),
            Form::Parquet(groups) => groups.finish(notes),
        }
    }
}

#[cfg(test)]
mod tests;
