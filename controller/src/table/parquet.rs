//! Rows as a Parquet file, group by group.

use super::WriteError;
use bytes::Bytes;
use dormouse_core::price::{Exact, Signed};
use dormouse_core::table::{Column, Kind, Value};
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::Field;
use parquet::schema::types::Type;
use std::fs::File;
use std::sync::Arc;

/// Rows of a group: with 50 columns of at most 40 B a cell, where a text that repeats the one above it is shared with it,
/// 16 MB. A file has at most 2^15 groups: 268 million rows.
const GROUP_ROWS: usize = 8_192;

/// Bytes of a decimal: 38 digits are 127 bits.
const DECIMAL_BYTES: i32 = 16;
/// Digits of a decimal.
const DIGITS: i32 = 38;

/// A file that is written group by group.
pub(super) struct Groups {
    file: SerializedFileWriter<Vec<u8>>,
    cells: Vec<Cells>,
    rows: usize,
}

/// The cells of one column since the last group.
struct Cells {
    column: Column,
    values: Values,
    /// For each row whether there is a value.
    levels: Vec<i16>,
}

enum Values {
    Texts(Vec<ByteArray>),
    Decimals(Vec<FixedLenByteArray>),
    Longs(Vec<i64>),
    Bools(Vec<bool>),
}

impl Groups {
    pub(super) fn new(columns: &[Column]) -> Result<Self, WriteError> {
        let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_created_by(concat!("dormouse ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
        Ok(Self { file, cells: columns.iter().map(|column| Cells::new(*column)).collect(), rows: 0 })
    }

    pub(super) fn row<'a>(&mut self, mut values: impl Iterator<Item = Value<'a>>) -> Result<(), WriteError> {
        for cells in &mut self.cells {
            cells.push(values.next().unwrap_or(Value::Null))?;
        }
        self.rows += 1;
        if self.rows == GROUP_ROWS { self.end_group() } else { Ok(()) }
    }

    fn end_group(&mut self) -> Result<(), WriteError> {
        if self.rows > 0 {
            let mut group = self.file.next_row_group()?;
            for cells in &mut self.cells {
                let missing = || ParquetError::General(format!("column {} is not in the file", cells.column.name));
                let mut column = group.next_column()?.ok_or_else(missing)?;
                cells.write(&mut column)?;
                column.close()?;
                cells.clear();
            }
            group.close()?;
        }
        self.rows = 0;
        Ok(())
    }

    pub(super) fn take(&mut self) -> Result<Vec<u8>, WriteError> {
        self.file.flush().map_err(ParquetError::from)?;
        // The file counts what it wrote by itself: what is taken away is not looked at again.
        Ok(std::mem::take(self.file.inner_mut()))
    }

    pub(super) fn finish(mut self, notes: &[(&str, String)]) -> Result<Vec<u8>, WriteError> {
        self.end_group()?;
        for (key, value) in notes {
            self.file.append_key_value_metadata(KeyValue::new((*key).to_owned(), value.clone()));
        }
        Ok(self.file.into_inner()?)
    }
}

/// Reads a decimal column of a Parquet file that a [`super::Writer`] wrote: each value in units of the column's last
/// digit, and how many digits after the point that is. Nothing counts as 0.
///
/// # Errors
/// When it is no such file, or has no such column.
pub fn each_decimal(file: File, column: &str, mut each: impl FnMut(i128)) -> Result<u32, ParquetError> {
    let file = SerializedFileReader::new(file)?;
    let other = || ParquetError::General(format!("it has no decimal column {column}"));
    let schema = file.metadata().file_metadata().schema();
    let field = schema.get_fields().iter().find(|field| field.name() == column).ok_or_else(other)?;
    let scale = match field.get_basic_info().logical_type_ref() {
        Some(LogicalType::Decimal(decimal)) => u32::try_from(decimal.scale).map_err(|_| other())?,
        _ => return Err(other()),
    };
    let only = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build()?;
    for row in file.get_row_iter(Some(only))? {
        each(match row?.get_column_iter().next() {
            Some((_, Field::Decimal(value))) => {
                value.data().try_into().map(i128::from_be_bytes).map_err(|_| other())?
            }
            _ => 0,
        });
    }
    Ok(scale)
}

fn field(column: &Column) -> Result<Arc<Type>, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Bool => (Physical::BOOLEAN, None),
        Kind::Integer => (Physical::INT64, Some(LogicalType::integer(64, false))),
        Kind::Wide => (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::decimal(0, DIGITS))),
        Kind::Decimal { scale } => {
            let scale = i32::try_from(scale).unwrap_or(DIGITS);
            (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::decimal(scale, DIGITS)))
        }
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
    };
    let mut builder = Type::primitive_type_builder(column.name, physical)
        .with_repetition(if column.nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED })
        .with_logical_type(logical);
    builder = match column.kind {
        Kind::Wide => builder.with_length(DECIMAL_BYTES).with_precision(DIGITS).with_scale(0),
        Kind::Decimal { scale } => {
            builder.with_length(DECIMAL_BYTES).with_precision(DIGITS).with_scale(i32::try_from(scale).unwrap_or(DIGITS))
        }
        _ => builder,
    };
    builder.build().map(Arc::new)
}

fn scale(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Decimal { scale } => Some(scale),
        _ => None,
    }
}

impl Cells {
    fn new(column: Column) -> Self {
        let values = match column.kind {
            Kind::Text => Values::Texts(Vec::new()),
            Kind::Bool => Values::Bools(Vec::new()),
            Kind::Integer | Kind::Time => Values::Longs(Vec::new()),
            Kind::Wide | Kind::Decimal { .. } => Values::Decimals(Vec::new()),
        };
        Self { column, values, levels: Vec::new() }
    }

    fn push(&mut self, value: Value<'_>) -> Result<(), WriteError> {
        let Column { name, kind, nullable } = self.column;
        let misfit = WriteError::Misfit(name);
        let decimal = |units: i128| FixedLenByteArray::from(units.to_be_bytes().to_vec());
        match (&mut self.values, value) {
            (_, Value::Null) if nullable => {
                self.levels.push(0);
                return Ok(());
            }
            (Values::Texts(all), Value::Text(text)) => {
                let above = all.last().filter(|above| above.data() == text.as_bytes()).cloned();
                all.push(above.unwrap_or_else(|| Bytes::from(text.into_owned()).into()));
            }
            (Values::Bools(all), Value::Bool(value)) => all.push(value),
            // An unsigned number is stored by its bits.
            (Values::Longs(all), Value::Integer(value)) if kind == Kind::Integer => all.push(value.cast_signed()),
            (Values::Longs(all), Value::Time(us)) if kind == Kind::Time => all.push(us),
            (Values::Decimals(all), Value::Wide(value)) if kind == Kind::Wide => {
                all.push(decimal(Exact::whole(value).units(0)?));
            }
            (Values::Decimals(all), Value::Decimal(value)) => {
                all.push(decimal(value.units(scale(kind).ok_or(misfit)?)?))
            }
            (Values::Decimals(all), Value::Amount(value)) => {
                all.push(decimal(Signed::of(value).units(scale(kind).ok_or(misfit)?)?));
            }
            _ => return Err(misfit),
        }
        self.levels.push(1);
        Ok(())
    }

    fn write(&self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = self.column.nullable.then_some(&self.levels[..]);
        match &self.values {
            Values::Texts(all) => column.typed::<ByteArrayType>().write_batch(all, levels, None),
            Values::Decimals(all) => column.typed::<FixedLenByteArrayType>().write_batch(all, levels, None),
            Values::Longs(all) => column.typed::<Int64Type>().write_batch(all, levels, None),
            Values::Bools(all) => column.typed::<BoolType>().write_batch(all, levels, None),
        }
        .map(drop)
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Texts(all) => all.clear(),
            Values::Decimals(all) => all.clear(),
            Values::Longs(all) => all.clear(),
            Values::Bools(all) => all.clear(),
        }
        self.levels.clear();
    }
}
