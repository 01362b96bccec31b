use super::*;
use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use dormouse_core::price::{Exact, Signed};
use dormouse_core::table::Kind;

fn columns() -> Vec<Column> {
    let column = |name, kind| Column { name, kind, nullable: false };
    vec![
        column("text", Kind::Text),
        column("whole", Kind::Integer),
        column("wide", Kind::Wide),
        column("cost", Kind::Decimal { scale: 6 }),
        column("at", Kind::Time),
        column("yes", Kind::Bool),
        Column { name: "maybe", kind: Kind::Text, nullable: true },
    ]
}

fn row(text: &str, maybe: Option<&str>) -> [Value<'static>; 7] {
    [
        Value::from(text.to_owned()),
        Value::Integer(u64::MAX),
        Value::Wide(u128::from(u64::MAX) + 1),
        Value::Decimal(Signed::negative(Exact::vcpu_seconds(1_500_000))),
        Value::Time(1_500_000),
        Value::Bool(true),
        Value::from(maybe.map(str::to_owned)),
    ]
}

fn written(format: Format, rows: Vec<[Value<'static>; 7]>) -> Vec<u8> {
    let mut writer = Writer::new(format, columns()).unwrap();
    let mut bytes = Vec::new();
    for row in rows {
        writer.row(row.into_iter()).unwrap();
        bytes.extend(writer.take().unwrap());
    }
    bytes.extend(writer.finish(&[("rows", "2".to_owned())]).unwrap());
    bytes
}

#[test]
fn text_is_quoted_where_it_must_be() {
    let rows = vec![row("a,b", None), row("say \"x\"", Some("l1\r\nl2"))];
    let csv = String::from_utf8(written(Format::Csv, rows.clone())).unwrap();
    assert_eq!(
        csv,
        "text,whole,wide,cost,at,yes,maybe\r\n\
         \"a,b\",18446744073709551615,18446744073709551616,-1.5,1970-01-01T00:00:01.5Z,true,\r\n\
         \"say \"\"x\"\"\",18446744073709551615,18446744073709551616,-1.5,1970-01-01T00:00:01.5Z,true,\"l1\r\nl2\"\r\n"
    );
    let mut read = csv::Reader::from_reader(csv.as_bytes());
    let cells: Vec<String> = read.records().map(|r| r.unwrap()[6].to_owned()).collect();
    assert_eq!(cells, ["", "l1\r\nl2"]);
    let json = String::from_utf8(written(Format::JsonLines, rows)).unwrap();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["maybe"], &lines[1]["maybe"]),
        (2, &serde_json::Value::Null, &"l1\r\nl2".into())
    );
    assert_eq!((&lines[1]["text"], &lines[1]["cost"]), (&"say \"x\"".into(), &"-1.5".into()));
    assert!(json.starts_with("{\"text\":\"a,b\",\"whole\":18446744073709551615,\"wide\":18446744073709551616,"));
}

#[test]
fn every_moment_has_a_text() {
    assert_eq!(moment(1), "1970-01-01T00:00:00.000001Z");
    assert!(!moment(i64::MIN).is_empty() && !moment(i64::MAX).is_empty());
}

#[test]
fn parquet_reads_back_over_several_groups() {
    const ROWS: usize = 20_000;
    let text = |n: usize| format!("{}", n / 7);
    let rows = (0..ROWS).map(|n| row(&text(n), (n % 3 == 0).then_some("there"))).collect();
    let file = SerializedFileReader::new(bytes::Bytes::from(written(Format::Parquet, rows))).unwrap();
    let meta = file.metadata().file_metadata();
    assert_eq!((meta.num_rows() as usize, file.num_row_groups()), (ROWS, 3));
    assert_eq!(meta.key_value_metadata().unwrap()[0].value.as_deref(), Some("2"));
    let kinds: Vec<_> =
        meta.schema_descr().columns().iter().map(|c| (c.logical_type_ref().cloned(), c.converted_type())).collect();
    assert_eq!(kinds[0], (Some(LogicalType::String), ConvertedType::UTF8));
    assert_eq!(kinds[1].0, Some(LogicalType::integer(64, false)));
    assert_eq!(kinds[3].0, Some(LogicalType::decimal(6, 38)));
    assert_eq!(kinds[4].0, Some(LogicalType::timestamp(true, TimeUnit::MICROS)));
    let mut seen = 0;
    for (n, row) in file.get_row_iter(None).unwrap().enumerate() {
        let cells: Vec<Field> = row.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect();
        assert_eq!(cells[0], Field::Str(text(n)));
        assert_eq!(cells[1], Field::ULong(u64::MAX));
        let units = |field: &Field| match field {
            Field::Decimal(decimal) => i128::from_be_bytes(decimal.data().try_into().unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!((units(&cells[2]), units(&cells[3])), (i128::from(u64::MAX) + 1, -1_500_000));
        assert_eq!((&cells[4], &cells[5]), (&Field::TimestampMicros(1_500_000), &Field::Bool(true)));
        let maybe = if n % 3 == 0 { Field::Str("there".into()) } else { Field::Null };
        assert_eq!(cells[6], maybe);
        seen += 1;
    }
    assert_eq!(seen, ROWS);
}

#[test]
fn a_decimal_column_is_read_alone() {
    let file = |rows| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &written(Format::Parquet, rows)).unwrap();
        file
    };
    let mut seen = Vec::new();
    let three = vec![row("a", None), row("b", None), row("c", None)];
    assert_eq!(each_decimal(file(three), "cost", |units| seen.push(units)).unwrap(), 6);
    assert_eq!(seen, [-1_500_000; 3]);
    assert_eq!(each_decimal(file(Vec::new()), "wide", |_| panic!()).unwrap(), 0);
    for other in ["text", "none"] {
        assert!(each_decimal(file(Vec::new()), other, |_| {}).unwrap_err().to_string().contains("decimal column"));
    }
}

#[test]
fn a_table_without_rows_is_one() {
    assert_eq!(written(Format::Csv, Vec::new()), b"text,whole,wide,cost,at,yes,maybe\r\n");
    assert_eq!(written(Format::JsonLines, Vec::new()), b"");
    let file = SerializedFileReader::new(bytes::Bytes::from(written(Format::Parquet, Vec::new()))).unwrap();
    assert_eq!((file.metadata().file_metadata().num_rows(), file.num_row_groups()), (0, 0));
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |at: usize, value: Value<'static>| {
        let mut row = row("x", None);
        row[at] = value;
        Writer::new(Format::Parquet, columns()).unwrap().row(row.into_iter()).unwrap_err().to_string()
    };
    assert!(refused(0, Value::Null).contains("column text"));
    assert!(refused(4, Value::Integer(1)).contains("column at"));
    assert!(refused(1, Value::Time(1)).contains("column whole"));
    assert!(refused(3, Value::Decimal(Exact::gb_seconds(1).into())).contains("digits"), "13 of them");
    assert!(refused(2, Value::Wide(u128::MAX)).contains("digits"));
}
