//! A link as a square that a phone's camera reads.

use std::fmt::Write as _;

use fast_qr::{ECL, QRBuilder, QRCode};

/// A QR code.
pub struct Qr(QRCode);

impl Qr {
    /// The code of a text; nothing for one of more than 2,300 bytes, which no code holds.
    pub fn of(text: &str) -> Option<Self> {
        // On a screen nothing is scratched or wet, so a fifth of it may be hidden at most: fewer, larger squares.
        QRBuilder::new(text).ecl(ECL::M).build().ok().map(Self)
    }

    /// For a terminal: two rows of squares a line, light on the terminal's dark. The border of light squares belongs to it.
    pub fn terminal(&self) -> String {
        let rows = (-BORDER..self.side() + BORDER).step_by(2);
        let lines = rows.map(|y| {
            let columns = -BORDER..self.side() + BORDER;
            let line: String =
                columns.map(|x| BLOCKS[usize::from(self.dark(x, y))][usize::from(self.dark(x, y + 1))]).collect();
            line + "\n"
        });
        lines.collect()
    }

    /// As an SVG image, black on white.
    pub fn svg(&self) -> String {
        let whole = self.side() + 2 * BORDER;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {whole} {whole}\" shape-rendering=\"crispEdges\">\
             <rect width=\"{whole}\" height=\"{whole}\" fill=\"#fff\"/><path d=\""
        );
        for (x, y) in
            (0..self.side()).flat_map(|y| (0..self.side()).map(move |x| (x, y))).filter(|&(x, y)| self.dark(x, y))
        {
            // Writing to a string does not fail.
            let _ = write!(svg, "M{} {}h1v1h-1z", x + BORDER, y + BORDER);
        }
        svg + "\"/></svg>"
    }

    fn side(&self) -> i32 {
        self.0.size as i32
    }

    /// Whether a square is dark; those around the code are not.
    fn dark(&self, x: i32, y: i32) -> bool {
        let inside = |at: i32| usize::try_from(at).ok().filter(|at| *at < self.0.size);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if self.0[y][x].value())
    }
}

/// Light squares around a code: what its definition asks for.
const BORDER: i32 = 4;

/// What two squares, one above the other, look like, by whether each is dark.
const BLOCKS: [[char; 2]; 2] = [['█', '▀'], ['▄', ' ']];

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://192.168.1.10:7780/join#K7MP-Q2XR";

    #[test]
    fn terminal_and_image_have_the_finder_squares_and_the_border() {
        let qr = Qr::of(LINK).unwrap();
        let rows: Vec<String> = qr.terminal().lines().map(str::to_owned).collect();
        assert!(rows[0].chars().all(|square| square == '█'), "the border is light");
        // The corner of seven squares: dark, then a light ring.
        assert_eq!(
            rows[2].chars().skip(4).take(9).collect::<String>(),
            " ▄▄▄▄▄ █▄".chars().take(8).collect::<String>() + &rows[2].chars().nth(12).unwrap().to_string()
        );
        let dark =
            (0..qr.side()).flat_map(|y| (0..qr.side()).map(move |x| (x, y))).filter(|&(x, y)| qr.dark(x, y)).count();
        assert_eq!(qr.svg().matches("h1v1h-1z").count(), dark);
    }

    #[test]
    fn what_no_code_holds_gives_none() {
        assert!(Qr::of(&"a".repeat(3000)).is_none());
    }
}
