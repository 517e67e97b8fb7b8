#!/usr/bin/env bash
# Makes the five samples anew. See README.md for what it needs.
#
#     bash files/make.sh            into files/
#     bash files/make.sh DIR        into DIR, to compare
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# One thread and no dates or version strings inside: the same tools give the same bytes.
ffmpeg=(ffmpeg -hide_banner -loglevel error -nostdin -y)
exact=(-threads 1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1)
export SOURCE_DATE_EPOCH=0 TZ=UTC LC_ALL=C.UTF-8

# text.txt: a page about swarms, then the primes below 100,000.
{
    cat "$here/one-to-many.in"
    seq 2 99999 | factor | awk 'NF == 2 { print $2 }' | pr -T -a -8 -s' ' | awk '
        { for (i = 1; i <= NF; i++) printf "%8d%s", $i, (i == NF ? "\n" : " ") }'
} >"$out/text.txt"

# picture.png: one frame of the Mandelbrot set.
"${ffmpeg[@]}" -f lavfi -i mandelbrot=size=480x360:start_scale=2.2:maxiter=400 \
    -frames:v 1 -pix_fmt rgb24 "${exact[@]}" "$scratch/picture.png"
mv "$scratch/picture.png" "$out/picture.png"

# document.pdf: the same text, typeset, with the table in a small fixed-width face.
{
    printf '.nf\n.ft CR\n.ps 8\n.vs 9.5\n.ll 6.7i\n.po 0.8i\n'
    sed -e 's/\\/\\e/g' -e "s/^[.']/\\\\\&&/" -e "s/'/\\\\(aq/g" "$out/text.txt"
} | groff -Tpdf |
    sed 's/(D:[0-9]\{14\}/(D:20000101000000/' >"$out/document.pdf" # the same length: offsets hold

# music.mp3: half a minute of slow chords.
chord() { # FREQ...: the sum of soft sines that swell and fade in two seconds
    local sum=
    for hertz in "$@"; do sum+="${sum:++}sin(2*PI*$hertz*t)"; done
    printf '0.16*(%s)*sin(PI*t/2)' "$sum"
}
for part in 1 2 3 4; do
    case $part in
    1) notes=(220.00 261.63 329.63) ;;
    2) notes=(174.61 220.00 261.63) ;;
    3) notes=(196.00 246.94 293.66) ;;
    4) notes=(164.81 220.00 261.63) ;;
    esac
    "${ffmpeg[@]}" -f lavfi -i "aevalsrc=exprs=$(chord "${notes[@]}"):s=44100:d=2" \
        -c:a pcm_s16le "$scratch/chord$part.wav"
done
for round in 1 2 3 4; do
    for part in 1 2 3 4; do echo "file chord$part.wav"; done
done >"$scratch/chords.txt"
"${ffmpeg[@]}" -f concat -i "$scratch/chords.txt" -c:a pcm_s16le "$scratch/music.wav"
"${ffmpeg[@]}" -i "$scratch/music.wav" -ac 2 -c:a libmp3lame -b:a 128k \
    "${exact[@]}" -id3v2_version 0 "$scratch/music.mp3"
mv "$scratch/music.mp3" "$out/music.mp3"

# film.mp4: 20 s of H.264 and AAC that any player opens, a zoom into the same set with the
# music. The bit rate is chosen so that it is cut into exactly 100 pieces of 16 KiB.
film=(-f lavfi -i "mandelbrot=size=640x360:rate=25:start_scale=2.2:end_scale=0.0005:end_pts=500:maxiter=400")
video=(-t 20 -pix_fmt yuv420p -c:v libx264 -profile:v main -preset slow -b:v 544k -x264-params threads=1)
(
    cd "$scratch"
    "${ffmpeg[@]}" "${film[@]}" "${video[@]}" "${exact[@]}" -pass 1 -an -f null /dev/null
    "${ffmpeg[@]}" "${film[@]}" -i music.wav "${video[@]}" "${exact[@]}" -pass 2 \
        -c:a aac -b:a 96k -ac 2 -movflags +faststart film.mp4
) 2>&1
mv "$scratch/film.mp4" "$out/film.mp4"

ls -l "$out"/text.txt "$out"/picture.png "$out"/document.pdf "$out"/music.mp3 "$out"/film.mp4
