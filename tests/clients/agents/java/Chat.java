import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Java's HttpClient with its defaults: it asks for an upgrade to HTTP/2 in clear text. */
public class Chat {
    /** Sends a chat request, and prints the answer's version and body. */
    public static void main(String[] arguments) throws Exception {
        String body = "{\"model\":\"" + System.getenv("AGENT_MODEL")
            + "\",\"messages\":[{\"role\":\"user\",\"content\":\"scenario chat. Hello\"}]}";
        HttpRequest request = HttpRequest
            .newBuilder(URI.create(System.getenv("AGENT_URL") + "/v1/chat/completions"))
            .header("authorization", "Bearer " + System.getenv("AGENT_TOKEN"))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> answer = HttpClient.newHttpClient()
            .send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println("{\"status\":" + answer.statusCode() + ",\"answer\":" + answer.body()
            + "}");
    }
}
