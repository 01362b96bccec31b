//! Columns, as kubectl prints them.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// A table with these headers; those that begin with `>` are for numbers and stand on the right.
pub(crate) fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|h| h.trim_start_matches('>')));
    for (column, header) in table.column_iter_mut().zip(headers) {
        column.set_padding((0, 3));
        if header.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's lines, without spaces at their ends.
pub(crate) fn text(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = table(&["NAME", ">CALLS"]);
        table.add_row(["hello", "1000"]);
        table.add_row(["b", "7"]);
        assert_eq!(text(&table), "NAME    CALLS\nhello    1000\nb           7");
    }
}
