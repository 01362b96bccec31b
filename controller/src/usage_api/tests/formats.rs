//! Rows are the same however they are written.

use super::*;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;

/// A cell as JSON has it: numbers exact, decimals as text.
fn cell(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Bool(is) => is.to_string(),
        Field::ULong(number) => number.to_string(),
        Field::Str(text) => text.clone(),
        Field::TimestampMicros(us) => crate::table::moment(*us),
        Field::Decimal(decimal) => {
            let units = i128::from_be_bytes(decimal.data().try_into().unwrap());
            let scale = u32::try_from(decimal.scale()).unwrap();
            rust_decimal::Decimal::from_i128_with_scale(units, scale).normalize().to_string()
        }
        other => panic!("{other:?}"),
    }
}

/// The same of JSON; decimals with the zeros that they are shown with.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string().replace("null", ""), str::to_owned);
    match text.parse::<rust_decimal::Decimal>() {
        Ok(number) if text.contains('.') => number.normalize().to_string(),
        _ => text,
    }
}

/// Rows of a Parquet file: names, then cells.
pub(in super::super) fn parquet(bytes: Bytes) -> Vec<Vec<String>> {
    let file = SerializedFileReader::new(bytes).unwrap();
    let head = file.metadata().file_metadata().schema_descr().columns().iter().map(|c| c.name().to_owned()).collect();
    let rows = file.get_row_iter(None).unwrap();
    let rows = rows.map(|row| row.unwrap().get_column_iter().map(|(_, field)| cell(field)).collect());
    std::iter::once(head).chain(rows).collect()
}

#[tokio::test]
async fn every_format_has_the_same_rows() {
    let f = fixture(None).await;
    for question in [
        format!("/v1/usage?{NOVEMBER}&granularity=PT1H&group_by=function"),
        format!("/v1/records?{NOVEMBER}"),
        "/v1/prices?as=lambda".to_owned(),
        "/v1/statements/acme/2026-11?as=lambda".to_owned(),
    ] {
        let json = f.json(&question).await;
        let rows = ["rows", "prices", "lines"].iter().find_map(|name| json[*name].as_array()).unwrap();
        assert!(rows.len() > 1, "{question}");
        let (_, headers, lines) = f.get(&question, &[("accept", "application/x-ndjson")]).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/x-ndjson");
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[..rows.len()], rows[..], "{question}");
        let (_, headers, file) = f.bytes(&question, &[("accept", "application/vnd.apache.parquet")]).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/vnd.apache.parquet");
        let table = parquet(file);
        let names: Vec<&str> = table[0].iter().map(String::as_str).collect();
        assert_eq!(
            names.iter().copied().collect::<BTreeSet<_>>(),
            rows[0].as_object().unwrap().keys().map(String::as_str).collect()
        );
        for (row, cells) in rows.iter().zip(&table[1..]) {
            assert_eq!(names.iter().map(|name| text(&row[*name])).collect::<Vec<_>>(), *cells, "{question}");
        }
        // A statement's table has its total behind its lines.
        let more = usize::from(question.contains("statements"));
        assert_eq!((lines.len(), table.len() - 1), (rows.len() + more, rows.len() + more));
    }
}

#[tokio::test]
async fn what_stands_around_the_rows_is_in_headers() {
    let f = fixture(None).await;
    let question = format!("/v1/usage?{NOVEMBER}&granularity=PT1H&group_by=function&limit=1");
    let whole = f.json(&question.replace("&limit=1", "")).await;
    let (mut link, mut lines) = (question, Vec::new());
    loop {
        let (status, headers, body) = f.get(&link, &[("accept", "text/csv")]).await;
        assert_eq!(status, 200, "{body}");
        let said = ["dormouse-plan", "dormouse-currency", "dormouse-from", "dormouse-to", "vary"];
        let said = said.map(|name| headers[name].to_str().unwrap().to_owned());
        assert_eq!(said, ["article", "CNY", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "accept"]);
        lines.extend(body.lines().skip(1).map(str::to_owned));
        let Some(next) = headers.get(header::LINK) else { break };
        let next = next.to_str().unwrap().strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        link = next.to_owned();
    }
    let starts: Vec<_> = lines.iter().map(|line| line.split(',').next().unwrap().to_owned()).collect();
    let rows = whole["rows"].as_array().unwrap();
    assert_eq!(starts, rows.iter().map(|row| row["start"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_row_at_once_is_what_the_pages_have() {
    let f = fixture(None).await;
    let question = format!("/v1/usage?{NOVEMBER}&granularity=PT1H&group_by=tenant,function,function_uid");
    for format in ["csv", "jsonl", "parquet"] {
        let page = f.bytes(&format!("{question}&format={format}"), &[]).await;
        let all = f.bytes(&format!("{question}&format={format}&limit=all"), &[]).await;
        let told = |headers: &HeaderMap| {
            let names = ["content-type", "vary", "dormouse-plan", "dormouse-currency", "dormouse-from", "dormouse-to"];
            names.map(|name| headers[name].clone())
        };
        assert_eq!((all.0, told(&all.1)), (page.0, told(&page.1)), "{format}");
        match format {
            "parquet" => assert_eq!(parquet(all.2), parquet(page.2)),
            _ => assert_eq!(all.2, page.2, "{format}"),
        }
    }
    let nothing = f.get(&format!("{question}&format=csv&limit=all&filter[tenant]=nobody"), &[]).await;
    assert_eq!((nothing.0, nothing.2.lines().count()), (StatusCode::OK, 1), "the line of names");
    let cursor = f.json(&format!("{question}&limit=1")).await["next_cursor"].as_str().unwrap().to_owned();
    for (bad, why) in [
        (format!("{question}&limit=all"), "limit: cannot be all in JSON"),
        (format!("{question}&limit=all&format=csv&cursor={cursor}"), "cursor: goes with pages"),
        (format!("{question}&limit=every&format=csv"), "limit: must be a whole number from 1 to 10000, or all"),
        (format!("/v1/records?{NOVEMBER}&format=csv&limit=all"), "limit: must be a whole number from 1 to 10000"),
    ] {
        let (status, _, body) = f.get(&bad, &[]).await;
        assert!(status == StatusCode::BAD_REQUEST && body.contains(why), "{bad}: {body}");
    }
}

#[tokio::test]
async fn who_reads_nothing_of_it_is_told_what_there_is() {
    let f = fixture(None).await;
    for path in ["/v1/usage", "/v1/records", "/v1/prices", "/v1/statements/acme/2026-11"] {
        let (status, headers, body) = f.get(path, &[("accept", "text/html, application/json;q=0")]).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["error"]), (StatusCode::NOT_ACCEPTABLE, &"NotAcceptable".into()), "{path}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        let offered = "application/json, text/csv, application/x-ndjson, application/vnd.apache.parquet";
        assert!(body["message"].as_str().unwrap().contains(offered));
        // The parameter goes before the header.
        assert_eq!(f.get(&format!("{path}?format=jsonl"), &[("accept", "text/html")]).await.0, 200, "{path}");
    }
    let (_, headers, body) =
        f.get("/v1/prices", &[("accept", "text/csv;q=0.1"), ("accept", "application/x-ndjson")]).await;
    let prices = f.json("/v1/prices").await["prices"].as_array().unwrap().len();
    assert_eq!(
        (headers[header::CONTENT_TYPE].to_str().unwrap(), body.lines().count()),
        ("application/x-ndjson", prices)
    );
    // A refusal is JSON to everybody.
    let (status, headers, _) = f.get("/v1/usage?x=1", &[("accept", "text/csv")]).await;
    assert_eq!(
        (status, &headers[header::CONTENT_TYPE]),
        (StatusCode::BAD_REQUEST, &"application/json".parse().unwrap())
    );
}
