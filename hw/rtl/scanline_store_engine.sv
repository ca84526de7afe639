// STORE: rows of a rolling buffer to memory as bursts; pixel shuffle is the choice of channels per sub-row.
module scanline_store_engine
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] write_first_i,
    input  logic [31:0] write_end_i,
    input  logic cmd_valid_i,
    output logic cmd_ready_o,
    input  store_cmd_t cmd_i,
    // buffers
    output logic [BufferBits-1:0] buffer_id_o,
    input  buffer_view_t buffer_i,
    output logic claim_o,
    output logic free_o,
    output logic [15:0] free_to_o,
    // scratchpad: a segment, one cycle after the read
    output segment_read_t segment_o,
    input  segment_data_t segment_data_i,
    // statistics: a word as it is packed; bytes that are not stored are zero
    output count_t count_o,
    // bus writes
    output burst_t burst_o,
    input  logic burst_ready_i,
    output write_beat_t beat_o,
    input  logic beat_ready_i,
    input  logic b_valid_i,
    // state
    output logic busy_o,
    output window_error_t window_error_o
);
  localparam int unsigned FifoBits = $clog2(StoreFifoBeats) + 1;

  typedef enum logic [3:0] {
    Idle,
    Check,
    Multiply,
    SubRow,
    Range,
    Fetch,
    Pixels,
    Flush,
    NextSub
  } state_e;
  state_e state_q;
  store_cmd_t cmd_q;
  logic [7:0] sub_q;
  logic [15:0] channel_q, first_group_q, last_group_q;
  logic [31:0] sub_start_q, sub_end_q, span_q;
  logic [15:0] row_address_q, row_after_q;
  logic row_begins_q;  // the statistics

  assign buffer_id_o = BufferBits'(cmd_q.buf_id);
  assign cmd_ready_o = state_q == Idle;
  logic skip_row, row_there, start_row;
  assign skip_row = buffer_i.stored >= buffer_i.cfg.height;
  assign row_there = buffer_i.done > buffer_i.stored;
  assign start_row = state_q == Multiply;
  assign claim_o = start_row;

  logic window_bad;
  assign window_bad = (sub_start_q < write_first_i) || (sub_end_q > write_end_i) || (sub_end_q < sub_start_q);
  assign window_error_o.valid = (state_q == Range) && window_bad;
  assign window_error_o.address = sub_start_q;

  // Bursts of this sub-row go out on their own; the data follows in order.
  logic [31:0] aw_next_q, aw_end_q, burst_end, burst_beats;
  logic len_ready, len_valid, len_pop;
  logic [7:0] len_data;
  logic [3:0] len_count;
  always_comb begin
    burst_end = ((aw_next_q >> BurstShift) + 32'd1) << BurstShift;
    if (burst_end > aw_end_q) burst_end = aw_end_q;
    burst_beats = (burst_end - aw_next_q) >> BusShift;
  end
  // Once offered, a transfer stays as it is until it is taken, even when the machine stops meanwhile.
  logic aw_held_q, w_held_q, beat_shown;
  assign burst_o.valid = (aw_next_q != aw_end_q) && len_ready && (!stop_i || aw_held_q);
  assign burst_o.offset = aw_next_q;
  assign burst_o.len = 8'(burst_beats - 32'd1);
  scanline_stream_fifo #(
      .Width(8),
      .Depth(8)
  ) u_lengths (
      .clk_i,
      .rst_ni,
      .valid_i(burst_o.valid && burst_ready_i),
      .ready_o(len_ready),
      .data_i(burst_o.len),
      .valid_o(len_valid),
      .ready_i(len_pop),
      .data_o(len_data),
      .count_o(len_count)
  );

  // Beats: packed below, sent here.
  logic beat_push, beat_ready, beat_valid;
  logic [BusBits-1:0] beat_data;
  logic [BusBytes-1:0] beat_strobe;
  logic [BusBits-1:0] fifo_data;
  logic [BusBytes-1:0] fifo_strobe;
  logic [FifoBits-1:0] beat_count;
  logic [7:0] sent_q;
  scanline_stream_fifo #(
      .Width(BusBits + BusBytes),
      .Depth(StoreFifoBeats)
  ) u_beats (
      .clk_i,
      .rst_ni,
      .valid_i(beat_push),
      .ready_o(beat_ready),
      .data_i({beat_strobe, beat_data}),
      .valid_o(beat_valid),
      .ready_i(beat_o.valid && beat_ready_i),
      .data_o({fifo_strobe, fifo_data}),
      .count_o(beat_count)
  );
  // A machine that stops with an error completes its bursts with beats that write nothing.
  assign beat_o.valid = len_valid && (beat_valid || stop_i);
  assign beat_shown = beat_valid && (!stop_i || w_held_q);
  assign beat_o.data = beat_shown ? fifo_data : '0;
  assign beat_o.strobe = beat_shown ? fifo_strobe : '0;
  assign beat_o.last = sent_q == len_data;
  assign len_pop = beat_o.valid && beat_ready_i && beat_o.last;

  // Reading: a batch of words is fetched segment by segment, one channel group each, so that the scratchpad is seldom
  // taken from the array; the batch goes out pixel by pixel, group by group, from its first segment on: the first
  // pixel's next word is always there. With many groups a batch is a part of one pixel.
  logic [Banks-1:0][WordBits-1:0] batch_q;
  logic [BankBits:0] batch_groups_q, batch_pixels_q, fetch_q;
  logic [BankBits-1:0] pixel_shift_q;  // log2 of the batch's pixels
  logic fetch_valid_q;                 // a segment arrives in this cycle
  logic [BankBits-1:0] fetch_at_q;
  logic [15:0] batch_x_q, batch_group_q;  // the batch's first pixel and group
  logic [15:0] x_q, group_q;
  logic [15:0] word_address_q;
  logic read, read_valid_q, last_group_now, last_x_now, dense, packer_idle, room, batch_ends;
  logic first_word_q, pixel_last_q, first_pixel_q;
  logic [StatisticAddrBits-1:0] count_addr_q;
  logic [WordBits-1:0] word_q;
  logic [BankBits-1:0] word_at;
  assign dense = cmd_q.pixel_pitch == cmd_q.pixel_bytes;
  assign room = beat_count < FifoBits'(StoreFifoBeats - 4);
  assign last_group_now = group_q == last_group_q;
  assign last_x_now = x_q + 16'd1 == cmd_q.x_first + cmd_q.x_count;
  // Before a gap the packer has to step over it.
  assign read = (state_q == Pixels) && room && (dense || (packer_idle && !(read_valid_q && pixel_last_q)));
  assign word_at = BankBits'((32'(group_q - batch_group_q) << pixel_shift_q) + 32'(x_q - batch_x_q));
  assign batch_ends = (last_group_now || (16'(group_q - batch_group_q) + 16'd1 == 16'(batch_groups_q))) &&
      ((16'(x_q - batch_x_q) + 16'd1 == 16'(batch_pixels_q)) || last_x_now);

  assign segment_o.valid = ((state_q == Fetch) || (state_q == Pixels)) && (fetch_q != batch_groups_q);
  always_comb begin
    segment_o.at.address = word_address_q;
    segment_o.at.x = signed'({2'b0, batch_x_q});
    segment_o.at.width = segment_end(segment_o.at.x, 18'(batch_pixels_q), cmd_q.x_first + cmd_q.x_count);
    segment_o.at.row_valid = 1'b1;
    segment_o.at.edge_pixels = 1'b0;
    segment_o.at.zero_point = '0;
  end

  // The largest power of two of pixels whose words of all groups fit a batch.
  logic [15:0] groups;
  logic [BankBits-1:0] pixel_shift;
  assign groups = last_group_q - first_group_q + 16'd1;
  always_comb begin
    pixel_shift = '0;
    for (int unsigned k = 1; k <= BankBits; k++) begin
      if (32'(groups) <= (Banks >> k)) pixel_shift = BankBits'(k);
    end
  end

  // Packing: bytes low..high of a word go to the current beat at position pos_q.
  logic [BusBits-1:0] beat_q;
  logic [BusBytes-1:0] strobe_q;
  logic [$clog2(BusBytes):0] pos_q;
  logic [15:0] gap_q;
  logic [15:0] low, high, bytes;
  logic [2*BusBits-1:0] placed;
  logic [2*BusBytes-1:0] placed_strobe;
  logic [WordBits-1:0] taken;
  logic [CiLanes-1:0] taken_strobe;
  logic crosses, stepping;
  assign packer_idle = gap_q == '0;
  assign stepping = (gap_q != '0) && !read_valid_q;
  always_comb begin
    low = first_word_q ? channel_q & 16'(CiLanes - 1) : '0;
    high = pixel_last_q ? (channel_q + cmd_q.pixel_bytes - 16'd1) & 16'(CiLanes - 1) : 16'(CiLanes - 1);
    bytes = high - low + 16'd1;
    placed = {{BusBits{1'b0}}, beat_q};
    placed_strobe = {{BusBytes{1'b0}}, strobe_q};
    taken_strobe = CiLanes'((32'd1 << bytes) - 32'd1);
    taken = word_q >> (8 * low);
    for (int unsigned j = 0; j < CiLanes; j++) if (!taken_strobe[j]) taken[8*j+:8] = '0;
    if (read_valid_q) begin
      placed = placed | ((2 * BusBits)'(taken) << (8 * pos_q));
      placed_strobe = placed_strobe | ((2 * BusBytes)'(taken_strobe) << pos_q);
    end
    crosses = read_valid_q && (16'(pos_q) + bytes >= 16'(BusBytes));
    beat_push = crosses || (stepping && (32'(pos_q) + 32'(gap_q) >= BusBytes)) || ((state_q == Flush) && !read_valid_q &&
                                                                                   packer_idle && (strobe_q != '0));
    beat_data = placed[BusBits-1:0];
    beat_strobe = placed_strobe[BusBytes-1:0];
  end

  assign count_o.valid = read_valid_q && cmd_q.statistics;
  assign count_o.begins = row_begins_q && first_pixel_q;
  assign count_o.addr = count_addr_q;
  assign count_o.codes = taken;

  logic [15:0] outstanding_q;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= Idle;
      aw_next_q <= '0;
      aw_end_q <= '0;
      sent_q <= '0;
      read_valid_q <= 1'b0;
      fetch_valid_q <= 1'b0;
      strobe_q <= '0;
      beat_q <= '0;
      pos_q <= '0;
      gap_q <= '0;
      outstanding_q <= '0;
      aw_held_q <= 1'b0;
      w_held_q <= 1'b0;
    end else begin
      aw_held_q <= burst_o.valid && !burst_ready_i;
      w_held_q  <= beat_o.valid && !beat_ready_i && beat_shown;
      unique case (state_q)
        Idle: if (cmd_valid_i) state_q <= Check;
        Check: if (skip_row) state_q <= Idle;
        else if (row_there) state_q <= Multiply;
        Multiply: state_q <= SubRow;
        SubRow: state_q <= Range;
        Range: if (window_bad) state_q <= Idle;
        else if (aw_next_q == aw_end_q) state_q <= Fetch;
        Fetch: if (fetch_valid_q) state_q <= Pixels;
        Pixels:
        if (read && last_group_now && last_x_now) state_q <= Flush;
        else if (read && batch_ends) state_q <= Fetch;
        Flush: if (!read_valid_q && packer_idle && ((strobe_q == '0) || beat_ready)) state_q <= NextSub;
        NextSub: state_q <= (sub_q + 8'd1 == cmd_q.sub_rows) ? Idle : SubRow;
        default: state_q <= Idle;
      endcase
      if (stop_i) state_q <= Idle;

      if ((state_q == Range) && !window_bad && (aw_next_q == aw_end_q)) begin
        aw_next_q <= (sub_start_q >> BusShift) << BusShift;
        aw_end_q <= ((sub_end_q + 32'(BusBytes - 1)) >> BusShift) << BusShift;
        pos_q <= {1'b0, sub_start_q[$clog2(BusBytes)-1:0]};
        strobe_q <= '0;
        beat_q <= '0;
        gap_q <= '0;
      end else begin
        if (burst_o.valid && burst_ready_i) aw_next_q <= burst_end;
        if (read_valid_q) begin
          beat_q <= crosses ? placed[2*BusBits-1:BusBits] : placed[BusBits-1:0];
          strobe_q <= crosses ? placed_strobe[2*BusBytes-1:BusBytes] : placed_strobe[BusBytes-1:0];
          pos_q <= ($clog2(BusBytes) + 1)'(16'(pos_q) + bytes - (crosses ? 16'(BusBytes) : '0));
          if (pixel_last_q && (state_q != Flush)) gap_q <= cmd_q.pixel_pitch - cmd_q.pixel_bytes;
        end else if (stepping && beat_ready) begin
          if (32'(pos_q) + 32'(gap_q) >= BusBytes) begin
            beat_q <= '0;
            strobe_q <= '0;
            gap_q <= 16'(32'(pos_q) + 32'(gap_q) - BusBytes);
            pos_q <= '0;
          end else begin
            pos_q <= ($clog2(BusBytes) + 1)'(16'(pos_q) + gap_q);
            gap_q <= '0;
          end
        end else if ((state_q == Flush) && packer_idle && beat_ready) begin
          strobe_q <= '0;
        end
      end
      read_valid_q <= read;
      fetch_valid_q <= segment_o.valid;
      if (beat_o.valid && beat_ready_i) sent_q <= beat_o.last ? '0 : sent_q + 8'd1;
      outstanding_q <= outstanding_q + 16'(burst_o.valid && burst_ready_i) - 16'(b_valid_i);
    end
  end

  logic [15:0] next_groups;  // of the batch to come
  always_comb begin
    next_groups = last_group_now ? groups : last_group_q - group_q;
    if (next_groups > 16'(Banks)) next_groups = 16'(Banks);
  end

  always_ff @(posedge clk_i) begin
    fetch_at_q <= BankBits'(32'(fetch_q) << pixel_shift_q);
    if (fetch_valid_q) begin
      for (int unsigned i = 0; i < Banks; i++) begin
        if (i >= 32'(fetch_at_q)) batch_q[i] <= segment_data_i[BankBits'(i)-fetch_at_q];
      end
    end
    if (read) word_q <= batch_q[word_at];
    if (segment_o.valid) begin
      fetch_q <= fetch_q + 1'b1;
      word_address_q <= word_address_q + buffer_i.cfg.group_pitch;
    end
    unique case (state_q)
      Idle: cmd_q <= cmd_i;
      Multiply: begin
        sub_q <= '0;
        sub_start_q <= cmd_q.address + 32'(buffer_i.stored) * cmd_q.row_stride;
        span_q <= 32'(cmd_q.x_count - 16'd1) * 32'(cmd_q.pixel_pitch) + 32'(cmd_q.pixel_bytes);
        channel_q <= cmd_q.channel;
        row_after_q <= buffer_i.stored + 16'd1;
        row_begins_q <= cmd_q.statistics_begin && (buffer_i.stored == '0);
        row_address_q <= buffer_i.cfg.base +
            16'(slot_of(buffer_i.stored, buffer_i.next_row, buffer_i.next_slot, buffer_i.cfg.rows) *
                buffer_i.cfg.row_pitch);
      end
      SubRow: begin
        sub_end_q <= sub_start_q + span_q;
        first_group_q <= channel_q / 16'(CiLanes);
        last_group_q <= (channel_q + cmd_q.pixel_bytes - 16'd1) / 16'(CiLanes);
      end
      Range: begin
        x_q <= cmd_q.x_first;
        group_q <= first_group_q;
        batch_x_q <= cmd_q.x_first;
        batch_group_q <= first_group_q;
        batch_groups_q <= (groups < 16'(Banks)) ? (BankBits + 1)'(groups) : (BankBits + 1)'(Banks);
        pixel_shift_q <= pixel_shift;
        batch_pixels_q <= (BankBits + 1)'(1) << pixel_shift;
        fetch_q <= '0;
        word_address_q <= row_address_q + 16'(first_group_q * buffer_i.cfg.group_pitch);
      end
      Pixels:
      if (read) begin
        group_q <= last_group_now ? first_group_q : group_q + 16'd1;
        if (last_group_now) x_q <= x_q + 16'd1;
        if (batch_ends) begin
          fetch_q <= '0;
          // On with the next pixels, or with the next groups of this one.
          batch_x_q <= last_group_now ? x_q + 16'd1 : x_q;
          batch_group_q <= last_group_now ? first_group_q : group_q + 16'd1;
          batch_groups_q <= (BankBits + 1)'(next_groups);
          if (last_group_now) word_address_q <= row_address_q + 16'(first_group_q * buffer_i.cfg.group_pitch);
        end
      end
      NextSub: begin
        sub_q <= sub_q + 8'd1;
        sub_start_q <= sub_start_q + cmd_q.sub_stride;
        channel_q <= channel_q + cmd_q.channel_step;
      end
      default: ;
    endcase
    first_word_q <= group_q == first_group_q;
    pixel_last_q <= last_group_now;
    first_pixel_q <= x_q == cmd_q.x_first;
    count_addr_q <= StatisticAddrBits'(16'(cmd_q.statistics_base) + group_q - first_group_q);
  end

  assign free_o = (state_q == NextSub) && (sub_q + 8'd1 == cmd_q.sub_rows);
  assign free_to_o = row_after_q;
  // After a stop nobody wants the beats of bursts that were never offered; the next start clears them.
  assign busy_o = (state_q != Idle) || (!stop_i && ((aw_next_q != aw_end_q) || beat_valid)) || burst_o.valid ||
      (outstanding_q != '0) || (len_count != '0);

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Burst, burst_o.valid, burst_ready_i, burst_o, 1'b0)
  `SCANLINE_HANDSHAKE(Beat, beat_o.valid, beat_ready_i, ({beat_shown, beat_o}), stop_i && !w_held_q)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= NextSub)
      `SCANLINE_ASSERT(BurstAfterFirst, !burst_o.valid || (burst_o.offset + BusBytes > write_first_i))
      `SCANLINE_ASSERT(BurstBeforeEnd, !burst_o.valid || (burst_o.offset + 32'(burst_o.len) * BusBytes < write_end_i))
      `SCANLINE_ASSERT(BurstBound, !burst_o.valid ||
          ((burst_o.offset >> BurstShift) == ((burst_o.offset + 32'(burst_o.len) * BusBytes) >> BurstShift)))
      `SCANLINE_ASSERT(BurstsEnd, aw_next_q <= aw_end_q)
      `SCANLINE_ASSERT(LengthFits, !(burst_o.valid && burst_ready_i) || len_ready)
      // A word that fills a beat cannot wait, so room is asked for before it is read; gaps and a row's last beat wait.
      `SCANLINE_ASSERT(BeatFits, !crosses || beat_ready)
      `SCANLINE_ASSERT(BeatInBurst, !beat_o.valid || (sent_q <= len_data))
      `SCANLINE_ASSERT(LastIsLast, !(beat_o.valid && beat_ready_i) || (beat_o.last == (sent_q == len_data)))
      `SCANLINE_ASSERT(ResponseAwaited, !b_valid_i || (outstanding_q != '0))
      `SCANLINE_ASSERT(PositionInBeat, 32'(pos_q) < BusBytes)
      `SCANLINE_ASSERT(FetchCounted, !segment_o.valid || (fetch_q < batch_groups_q))
      `SCANLINE_ASSERT(GroupInRow, (state_q != Pixels) || ((group_q >= first_group_q) && (group_q <= last_group_q)))
      `SCANLINE_ASSERT(PixelInRow, (state_q != Pixels) || (x_q < cmd_q.x_first + cmd_q.x_count))
      `SCANLINE_ASSERT(BatchInOrder, !read || ((group_q >= batch_group_q) && (x_q >= batch_x_q)))
      `SCANLINE_ASSERT(SubRowCounted, (state_q != NextSub) || (sub_q < cmd_q.sub_rows))
      `SCANLINE_ASSERT(StoreWithinRow, !claim_o || (buffer_i.stored < buffer_i.done))
    end
  end
`endif
endmodule
