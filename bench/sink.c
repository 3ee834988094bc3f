/* An SMTP server that takes everything, records it and is fast: the end of the line for every program measured here.
 *
 *   sink [--port N] [--record FILE] [--rtt MS] [--size BYTES] [--connections N] [--no-pipelining] [--no-chunking]
 *        [--quick-ack]
 *
 * One record of 32 bytes, in the machine's byte order, per accepted message: when the last byte was read
 * (CLOCK_MONOTONIC, ns), the number in X-Bench-Id (all ones: none), the body's bytes after the blank line with dots
 * unstuffed, the recipients, the connection's number. --rtt holds every answer for that long, and the greeting for
 * twice as long, as the TCP handshake would have cost one more: commands that arrive together cost one delay, and what
 * is on its way meanwhile is not held up. Slow start and windows are not simulated. A BDAT whose size is no number ends
 * the connection: nothing behind it could be trusted to be a command.
 * It says "ready" once it listens, and at SIGTERM one line of JSON with what it counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <fcntl.h>

enum { HEAD = 65536, BUFFER = 262144, MOST = 4096 };
enum state { COMMAND, DATA, CHUNK };

struct record {
    uint64_t at, id, body;
    uint32_t recipients, connection;
};

struct connection {
    int fd;
    uint32_t number;
    enum state state;
    char *in;
    size_t used;
    char *out;         /* answers that wait to be sent */
    size_t out_used, out_size;
    size_t fresh;      /* of these, not scheduled yet */
    uint64_t chunk;    /* bytes of a chunk still to come */
    int last, discard; /* of the chunk */
    int line_start;    /* the bytes before were CRLF */
    char before;       /* the byte before */
    int sender;
    uint32_t recipients;
    char head[HEAD];
    size_t head_used;
    int header_over;
    uint64_t id, body;
    int quitting;
};

struct due {
    uint64_t at;
    int fd;
    uint32_t number;
    size_t length;
};

static struct connection *connections[MOST];
static struct due *waiting;
static size_t waiting_first, waiting_used, waiting_size;
static int record_fd = -1, epoll_fd, pipelining = 1, chunking = 1, quick_ack;
static long limit = MOST;
static uint64_t rtt_ns, size_limit = 104857600, messages, opened, peak, now_open, commands;
static volatile sig_atomic_t stopping;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static void *must(void *memory) {
    if (!memory) {
        perror("memory");
        exit(71);
    }
    return memory;
}

static void answer(struct connection *c, const char *text) {
    size_t length = strlen(text);
    if (c->out_used + length > c->out_size) {
        c->out_size = (c->out_used + length) * 2;
        c->out = must(realloc(c->out, c->out_size));
    }
    memcpy(c->out + c->out_used, text, length);
    c->out_used += length;
    c->fresh += length;
}

static void hang_up(struct connection *c) {
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
    now_open--;
}

/* 0: the connection is gone. */
static int transmit(struct connection *c, size_t length) {
    size_t sent = 0;
    while (sent < length) {
        ssize_t n = send(c->fd, c->out + sent, length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) { /* answers are short: who does not read them is not measured here */
            hang_up(c);
            return 0;
        }
        sent += (size_t)n;
    }
    memmove(c->out, c->out + length, c->out_used - length);
    c->out_used -= length;
    if (c->quitting && !c->out_used) {
        hang_up(c);
        return 0;
    }
    return 1;
}

static int schedule(struct connection *c, uint64_t delay) {
    size_t length = c->fresh;
    if (!length)
        return 1;
    c->fresh = 0;
    if (!delay)
        return transmit(c, length);
    if (waiting_used == waiting_size) { /* compact, or grow */
        if (waiting_first > waiting_size / 2) {
            memmove(waiting, waiting + waiting_first, (waiting_used - waiting_first) * sizeof *waiting);
            waiting_used -= waiting_first;
            waiting_first = 0;
        } else {
            waiting_size = waiting_size ? waiting_size * 2 : 1024;
            waiting = must(realloc(waiting, waiting_size * sizeof *waiting));
        }
    }
    struct due due = {now() + delay, c->fd, c->number, length};
    size_t at = waiting_used++;
    while (at > waiting_first && waiting[at - 1].at > due.at) { /* greetings are later than what follows them */
        waiting[at] = waiting[at - 1];
        at--;
    }
    waiting[at] = due;
    return 1;
}

static void content(struct connection *c, const char *p, size_t n) {
    if (c->header_over) {
        c->body += n;
        return;
    }
    size_t take = HEAD - c->head_used < n ? HEAD - c->head_used : n;
    memcpy(c->head + c->head_used, p, take);
    size_t from = c->head_used > 3 ? c->head_used - 3 : 0;
    c->head_used += take;
    char *end = memmem(c->head + from, c->head_used - from, "\r\n\r\n", 4);
    if (!end) {
        c->header_over = c->head_used == HEAD;
        return;
    }
    c->header_over = 1;
    c->body = c->head_used - (size_t)(end + 4 - c->head) + (n - take);
    char *id = memmem(c->head, (size_t)(end + 2 - c->head), "\nX-Bench-Id: ", 13);
    if (id)
        c->id = strtoull(id + 13, NULL, 10);
}

static void begin_content(struct connection *c) {
    c->head_used = 0;
    c->header_over = 0;
    c->body = 0;
    c->id = UINT64_MAX;
    c->line_start = 1;
    c->before = '\n';
}

static void accepted(struct connection *c) {
    struct record record = {now(), c->id, c->body, c->recipients, c->number};
    messages++;
    if (record_fd >= 0 && write(record_fd, &record, sizeof record) != sizeof record) {
        perror("record");
        exit(74);
    }
    c->sender = 0;
    c->recipients = 0;
    answer(c, "250 2.0.0 taken\r\n");
}

static int is(const char *line, const char *verb) { return strncasecmp(line, verb, strlen(verb)) == 0; }

/* "100" or "100 LAST", nothing else; 0: something else. */
static int chunk_size(struct connection *c, const char *text) {
    char *rest;
    errno = 0;
    c->chunk = strtoull(text, &rest, 10);
    c->last = is(rest, " LAST");
    rest += c->last ? 5 : 0;
    return *text >= '0' && *text <= '9' && !errno && (!*rest || strcmp(rest, "\r") == 0);
}

static void command(struct connection *c, char *line) {
    char text[512];
    commands++;
    if (is(line, "EHLO")) {
        snprintf(text, sizeof text, "250-sink.test\r\n%s%s250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n",
                 pipelining ? "250-PIPELINING\r\n" : "", chunking ? "250-CHUNKING\r\n" : "");
        answer(c, text);
        snprintf(text, sizeof text, "250 SIZE %llu\r\n", (unsigned long long)size_limit);
        answer(c, text);
    } else if (is(line, "HELO") || is(line, "NOOP")) {
        answer(c, "250 2.0.0 sink.test\r\n");
    } else if (is(line, "MAIL FROM:")) {
        const char *size = strcasestr(line, " SIZE=");
        if (c->sender)
            answer(c, "503 5.5.1 nested MAIL\r\n");
        else if (size && size_limit && strtoull(size + 6, NULL, 10) > size_limit)
            answer(c, "552 5.3.4 too large\r\n");
        else {
            c->sender = 1;
            c->recipients = 0;
            answer(c, "250 2.1.0 ok\r\n");
        }
    } else if (is(line, "RCPT TO:")) {
        if (c->sender != 1)
            answer(c, "503 5.5.1 MAIL first, and no BDAT\r\n");
        else {
            c->recipients++;
            answer(c, "250 2.1.5 ok\r\n");
        }
    } else if (is(line, "DATA")) {
        if (!c->recipients || c->sender == 2)
            answer(c, "503 5.5.1 RCPT first, and no BDAT\r\n");
        else {
            c->state = DATA;
            begin_content(c);
            answer(c, "354 go ahead\r\n");
        }
    } else if (is(line, "BDAT ") && chunking) {
        if (!chunk_size(c, line + 5)) { /* where its bytes end nobody knows */
            answer(c, "501 5.5.4 BDAT size [LAST]\r\n");
            c->quitting = 1;
            return;
        }
        c->discard = !c->recipients; /* swallowed all the same: RFC 3030 section 2 */
        if (c->sender != 2) {
            begin_content(c);
            c->sender = c->recipients ? 2 : c->sender; /* 2: chunks have begun */
        }
        c->state = CHUNK;
    } else if (is(line, "RSET")) {
        c->sender = 0;
        c->recipients = 0;
        answer(c, "250 2.0.0 ok\r\n");
    } else if (is(line, "QUIT")) {
        answer(c, "221 2.0.0 bye\r\n");
        c->quitting = 1;
    } else
        answer(c, "502 5.5.2 unknown\r\n");
}

/* How many bytes of a body were consumed; fewer than all only where a line may be the final dot. */
static size_t body(struct connection *c, const char *p, size_t n) {
    size_t at = 0;
    while (at < n) {
        if (c->line_start && p[at] == '.') {
            if (n - at < 3)
                return at;
            if (p[at + 1] == '\r' && p[at + 2] == '\n') {
                c->state = COMMAND;
                accepted(c);
                return at + 3;
            }
            at++; /* stuffed */
        }
        const char *end = memchr(p + at, '\n', n - at);
        size_t length = end ? (size_t)(end + 1 - (p + at)) : n - at;
        content(c, p + at, length);
        c->line_start = end && (length > 1 ? end[-1] : c->before) == '\r';
        c->before = p[at + length - 1];
        at += length;
    }
    return at;
}

static void understand(struct connection *c) {
    size_t at = 0;
    while (at < c->used || (c->state == CHUNK && !c->chunk)) {
        if (c->state == DATA) {
            size_t taken = body(c, c->in + at, c->used - at);
            at += taken;
            if (c->state == DATA)
                break;
        } else if (c->state == CHUNK) {
            size_t n = c->used - at < c->chunk ? c->used - at : (size_t)c->chunk;
            if (!c->discard)
                content(c, c->in + at, n);
            c->chunk -= n;
            at += n;
            if (c->chunk)
                break;
            c->state = COMMAND;
            if (c->discard)
                answer(c, "503 5.5.1 RCPT first\r\n");
            else if (c->last)
                accepted(c);
            else
                answer(c, "250 2.0.0 ok\r\n");
        } else {
            char *end = memchr(c->in + at, '\n', c->used - at);
            if (!end)
                break;
            *end = 0;
            command(c, c->in + at);
            at = c->quitting ? c->used : (size_t)(end + 1 - c->in);
        }
    }
    memmove(c->in, c->in + at, c->used - at);
    c->used -= at;
}

static void hear(struct connection *c) {
    for (int turn = 0; turn < 4; turn++) {
        ssize_t n = recv(c->fd, c->in + c->used, BUFFER - c->used, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n == 0 && c->out_used) { /* half closed, as Exim does behind its QUIT: what is due is still said */
            c->quitting = 1;
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
            schedule(c, rtt_ns);
            return;
        }
        if (n <= 0) {
            hang_up(c);
            return;
        }
        c->used += (size_t)n;
        understand(c);
        if (c->used == BUFFER) { /* a command of 256 kB */
            hang_up(c);
            return;
        }
        if (n < BUFFER / 2)
            break;
    }
    if (quick_ack) {
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    }
    schedule(c, rtt_ns);
}

static void welcome(int listener) {
    for (;;) {
        int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (fd >= MOST) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = must(calloc(1, sizeof *c));
        c->fd = fd;
        c->number = (uint32_t)++opened;
        c->in = must(malloc(BUFFER));
        connections[fd] = c;
        if (++now_open > peak)
            peak = now_open;
        if ((long)now_open > limit) {
            c->quitting = 1;
            answer(c, "421 4.7.0 too many connections\r\n");
        } else
            answer(c, "220 sink.test ESMTP\r\n");
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
        schedule(c, rtt_ns * 2);
    }
}

static void send_due(void) {
    uint64_t at = now();
    while (waiting_first < waiting_used && waiting[waiting_first].at <= at) {
        struct due *due = &waiting[waiting_first++];
        struct connection *c = connections[due->fd];
        if (c && c->number == due->number)
            transmit(c, due->length);
    }
    if (waiting_first == waiting_used)
        waiting_first = waiting_used = 0;
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("listen");
        exit(69);
    }
    return fd;
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'},          {"record", 1, 0, 'r'},        {"rtt", 1, 0, 't'},
        {"size", 1, 0, 's'},          {"connections", 1, 0, 'c'},   {"no-pipelining", 0, 0, 'P'},
        {"no-chunking", 0, 0, 'C'},   {"quick-ack", 0, 0, 'q'},     {0, 0, 0, 0}};
    int option, port = 2525;
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'r': record_fd = open(optarg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644); break;
        case 't': rtt_ns = (uint64_t)(strtod(optarg, NULL) * 1e6); break;
        case 's': size_limit = strtoull(optarg, NULL, 10); break;
        case 'c': limit = atol(optarg); break;
        case 'P': pipelining = 0; break;
        case 'C': chunking = 0; break;
        case 'q': quick_ack = 1; break;
        default: return 64;
        }
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    int listener = listen_on(port);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    while (!stopping) {
        struct timespec wait, *until = NULL;
        if (waiting_first < waiting_used) {
            uint64_t at = now(), first = waiting[waiting_first].at;
            uint64_t left = first > at ? first - at : 0;
            wait.tv_sec = (time_t)(left / 1000000000u);
            wait.tv_nsec = (long)(left % 1000000000u);
            until = &wait;
        }
        int n = epoll_pwait2(epoll_fd, events, 256, until, NULL);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(listener);
            else if (connections[fd])
                hear(connections[fd]);
        }
        send_due();
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"messages\": %llu, \"connections\": %llu, \"peak\": %llu, \"commands\": %llu, \"cpu\": %.6f}\n",
           (unsigned long long)messages, (unsigned long long)opened, (unsigned long long)peak,
           (unsigned long long)commands,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    return 0;
}
